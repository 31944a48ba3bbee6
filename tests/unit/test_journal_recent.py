"""The newest rows in memory."""

from router.eventlog.recent import Recent


def rows(*seqs: int, topic: str = "t") -> list[tuple[int, str, str, str, int, bytes, bytes]]:
    return [(seq, topic, f"id-{seq}", "key", 0, b"", b"1234567890") for seq in seqs]


def seqs(found: object) -> list[int]:
    assert isinstance(found, list)
    return [row[0] for row in found]


def test_gaps_between_seqs_are_no_holes() -> None:
    recent = Recent(10)
    recent.add(rows(11, 14, 15))
    assert seqs(recent.after(10, None, 10)) == [11, 14, 15]
    assert seqs(recent.after(12, None, 10)) == [14, 15]
    assert seqs(recent.after(15, None, 10)) == []


def test_what_memory_has_only_a_part_of_is_none() -> None:
    recent = Recent(10, max_rows=4)
    assert recent.after(9, None, 10) is None
    recent.add(rows(11, 12, 13, 14, 15))
    assert recent.after(10, None, 10) is None
    assert seqs(recent.after(13, None, 10)) == [14, 15]


def test_bytes_are_bounded_too() -> None:
    recent = Recent(0, max_bytes=25)
    recent.add(rows(1, 2, 3))
    assert recent.after(0, None, 10) is None
    assert seqs(recent.after(2, None, 10)) == [3]


def test_one_row_that_is_larger_than_the_bound_empties_it() -> None:
    recent = Recent(0, max_bytes=5)
    recent.add(rows(1))
    assert recent.after(0, None, 10) is None
    assert seqs(recent.after(1, None, 10)) == []


def test_topics_and_limit() -> None:
    recent = Recent(0)
    recent.add(rows(1, 2) + rows(3, topic="other") + rows(4, 5))
    assert seqs(recent.after(0, {"t"}, 3)) == [1, 2, 4]
