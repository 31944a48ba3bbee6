"""Call records: in whatever order and however often events come, the record is their fold."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_events
from sqlalchemy import text

from router.events.call import CallRecord, CallState, Leg
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event, EventData
from router.events.types import EventType
from router.storage import calls
from router.storage.engine import Database

START = 1_700_000_000_000_000
ALL = frozenset(EventType)
CALL = "5f5d0000-0000-5000-8000-000000000001"


def happened(name: str, call_id: str = CALL, at: int = 0, kind: str = "leg.ended") -> Event:
    return Event(
        id=f"event-{name}",
        type=EventType(kind),
        source="twilio",
        time=START + at,
        key=call_id,
        data=EventData(call_id=call_id, provider_call_id=f"CA-{call_id}", reason=name),
    )


LEG = Leg(
    leg_id="CA2",
    provider="twilio",
    dialled="agent",
    disposition="busy",
    sip_status=486,
    reason="bu\0sy “here”",
    ended_at=START + 1,
)
CALLERS = Leg(leg_id="CA1", provider="twilio", ended_at=START + 2)


def fold(events: Sequence[Event]) -> CallRecord:
    """Tells which events it was given, and in what order."""
    ended = any(event.type is EventType.CALL_ENDED for event in events)
    return CallRecord(
        call_id=events[0].call_id,
        provider="twilio",
        provider_call_id=events[0].data.provider_call_id,
        provider_account="AC1",
        account_id=DEFAULT_ACCOUNT,
        connection_id="",
        direction="inbound",
        from_number="anony\0mous\ud800",
        to_number="+14155550100",
        state="ended" if ended else "initiated",
        disposition="answered" if ended else None,
        agent="anna",
        agent_id="",
        agent_ready=ended,
        reason=",".join(event.data.reason for event in events),
        initiated_at=events[0].time,
        ringing_at=None,
        agent_ready_at=None,
        answered_at=None,
        ended_at=events[-1].time if ended else None,
        duration=1.5 if ended else None,
        legs=(LEG, CALLERS) if ended else (),
    )


async def kept(db: Database, event: Event) -> CallRecord:
    """Record one event; the record of its call afterwards."""
    await calls.record(db, [event], fold, telling=ALL)
    record = await calls.get(db, DEFAULT_ACCOUNT, event.call_id)
    assert record is not None
    return record


async def test_an_event_makes_a_record(db: Database) -> None:
    event = happened("a")
    record = await kept(db, event)
    assert (record.call_id, record.reason) == (CALL, "a")
    assert await calls.events(db, CALL) == [event]


async def test_a_record_comes_back_as_it_was_folded(db: Database) -> None:
    told = [happened("a"), happened("b", at=9, kind="call.ended")]
    await calls.record(db, told, fold, telling=ALL)
    folded = fold(told)
    found = await calls.get(db, DEFAULT_ACCOUNT, CALL)
    assert found is not None
    assert isinstance(found.agent_ready, bool)
    # What PostgreSQL's text can't hold is gone; a caller may send it, and the call must be kept.
    assert found.from_number == "anonymous?"
    assert found == CallRecord(
        **{
            name: getattr(folded, name)
            for name in folded.__struct_fields__
            if name != "from_number"
        },
        from_number=found.from_number,
    )


async def test_a_repeated_event_changes_nothing(db: Database) -> None:
    first = await kept(db, happened("a"))
    again = await kept(db, msgspec.structs.replace(happened("a"), time=START + 5))
    assert again == first
    assert len(await calls.events(db, CALL)) == 1


async def test_several_calls_are_recorded_at_once(db: Database) -> None:
    told = [happened(f"{n}", f"call-{n % 3}", at=n) for n in range(9)]
    await calls.record(db, told, fold, telling=ALL)
    for n in range(3):
        record = await calls.get(db, DEFAULT_ACCOUNT, f"call-{n}")
        assert record is not None
        assert record.reason == f"{n},{n + 3},{n + 6}"


async def test_events_are_folded_by_time_in_whatever_order_they_come(
    db: Database, other: Database
) -> None:
    events = [happened(f"{n:02}", at=n) for n in range(24)] * 2
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(events)
    batches = [events[n : n + 3] for n in range(0, len(events), 3)]
    await asyncio.gather(
        *(
            calls.record(db if n % 2 else other, batch, fold, telling=ALL)
            for n, batch in enumerate(batches)
        )
    )
    assert len(await calls.events(db, CALL)) == 24
    record = await calls.get(db, DEFAULT_ACCOUNT, CALL)
    assert record is not None
    assert record.reason == ",".join(f"{n:02}" for n in range(24))


async def test_a_fold_that_fails_keeps_nothing(db: Database) -> None:
    def broken(events: Sequence[Event]) -> CallRecord:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await calls.record(db, [happened("a")], broken, telling=ALL)
    assert await calls.events(db, CALL) == []
    assert (await kept(db, happened("a"))).reason == "a"


async def test_a_fold_that_makes_no_record_keeps_the_events(db: Database) -> None:
    def nobody_phones(events: Sequence[Event]) -> CallRecord | None:
        return None if len(events) < 2 else fold(events)

    await calls.record(db, [happened("a")], nobody_phones, telling=ALL)
    assert await calls.get(db, DEFAULT_ACCOUNT, CALL) is None
    assert len(await calls.events(db, CALL)) == 1
    both = [happened("b"), happened("c", "another", at=1)]
    await calls.record(db, both, nobody_phones, telling=ALL)
    record = await calls.get(db, DEFAULT_ACCOUNT, CALL)
    assert record is not None
    assert record.reason == "a,b"
    assert await calls.get(db, DEFAULT_ACCOUNT, "another") is None


async def test_only_telling_events_are_folded_and_only_for_a_telling_one(db: Database) -> None:
    folded: list[list[str]] = []

    def seen(events: Sequence[Event]) -> CallRecord:
        folded.append([event.data.reason for event in events])
        return fold(events)

    telling = frozenset({EventType.LEG_ENDED})
    said = [happened(f"word {n}", at=n, kind="transcript.added") for n in range(3)]
    await calls.record(db, said, seen, telling=telling)
    assert folded == []
    assert await calls.get(db, DEFAULT_ACCOUNT, CALL) is None
    last = happened("word 9", at=9, kind="transcript.added")
    await calls.record(db, [happened("a", at=5), last], seen, telling=telling)
    assert folded == [["a"]]
    assert len(await calls.events(db, CALL)) == 5


async def test_calls_that_are_not_over_are_paged_oldest_first(db: Database) -> None:
    for n in range(7):
        await kept(db, happened(f"{n}", f"call-{n}", at=n // 2))  # two and two at once
    await kept(db, happened("end", "call-3", at=9, kind="call.ended"))
    found: list[str] = []
    after = (0, "")
    while page := await calls.unended(db, began_before=START + 3, limit=2, after=after):
        found += [record.call_id for record in page]
        after = (page[-1].initiated_at, page[-1].call_id)
    assert found == ["call-0", "call-1", "call-2", "call-4", "call-5"]


async def test_looking_for_unended_calls_reads_no_past_ones(db: Database) -> None:
    statements: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        statements.append((args[2], args[3]))

    engine = db._engine.sync_engine
    sqlalchemy_events.listen(engine, "before_cursor_execute", note)
    await calls.unended(db, began_before=START, limit=2, after=(START, CALL))
    sqlalchemy_events.remove(engine, "before_cursor_execute", note)
    [(query, values)] = [each for each in statements if "FROM calls" in each[0]]
    async with db.read() as connection:
        if db.dialect == "postgresql":
            # The plan for any values: a server makes it of what it often runs.
            numbered = query % {name: f"${n}" for n, name in enumerate(values, 1)}
            nothing = ", ".join(["NULL"] * len(values))
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of a tiny table
            await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            await connection.exec_driver_sql(f"PREPARE unended AS {numbered}")
            query, values = f"EXECUTE unended({nothing})", ()
        explain = "EXPLAIN QUERY PLAN" if db.dialect == "sqlite" else "EXPLAIN"
        plan = (await connection.exec_driver_sql(f"{explain} {query}", values)).all()
    assert "ix_calls_unended" in str(plan)


async def test_an_event_about_no_call_is_refused(db: Database) -> None:
    with pytest.raises(ValueError, match=r"number\.mapped is about no call"):
        await calls.record(db, [happened("a", call_id="", kind="number.mapped")], fold, telling=ALL)


async def test_a_call_is_found_by_a_prefix_or_by_its_providers_id(db: Database) -> None:
    ids = ["5f5d0000-aaaa", "5f5e0000-bbbb", "6f5d0000-cccc"]
    for n, call_id in enumerate(ids):
        await kept(db, happened(call_id, call_id, at=n))

    async def find(text: str) -> str | None:
        found = await calls.find(db, DEFAULT_ACCOUNT, text)
        return None if found is None else found.call_id

    assert await find("5f5d") == ids[0]
    assert await find("5f5d0000-") == ids[0]
    assert await find("5f5") == ids[1]  # the newest
    assert await find(ids[2]) == ids[2]
    assert await find("CA-5f5d0000-aaaa") == ids[0]
    assert await find("CA-5f5d") is None
    assert await find("7") is None
    assert await find("") is None
    assert await find("%") is None


async def test_calls_are_paged_newest_first_though_they_began_at_once(db: Database) -> None:
    ids = [f"call-{n}" for n in range(7)]
    for call_id in ids:
        await kept(db, happened(call_id, call_id))
    seen: list[str] = []
    while page := await calls.list_calls(
        db, DEFAULT_ACCOUNT, limit=3, before=seen[-1] if seen else None
    ):
        seen += [record.call_id for record in page]
    assert seen == ids[::-1]


async def test_calls_are_listed_by_state(db: Database) -> None:
    await kept(db, happened("a", "one"))
    await kept(db, happened("b", "two", kind="call.ended"))
    wanted: list[tuple[CallState, str]] = [("initiated", "one"), ("ended", "two")]
    for state, call_id in wanted:
        found = await calls.list_calls(db, DEFAULT_ACCOUNT, limit=9, state=state)
        assert [record.call_id for record in found] == [call_id]


ACME = "ac3e0000-0000-4000-8000-000000000001"


def of_acme(events: Sequence[Event]) -> CallRecord:
    return msgspec.structs.replace(fold(events), account_id=ACME, connection_id="c", agent_id="a")


async def test_an_account_sees_its_own_calls_alone(db: Database) -> None:
    theirs = "5f5d0000-0000-5000-8000-000000000002"
    await kept(db, happened("a"))
    await calls.record(db, [happened("b", theirs, at=1)], of_acme, telling=ALL)
    assert await calls.get(db, DEFAULT_ACCOUNT, theirs) is None
    assert await calls.get(db, ACME, CALL) is None
    record = await calls.get(db, ACME, theirs)
    assert record is not None
    assert (record.account_id, record.connection_id, record.agent_id) == (ACME, "c", "a")
    for account_id, own in ((DEFAULT_ACCOUNT, CALL), (ACME, theirs)):
        for wanted in ("5f5d", own, f"CA-{own}"):
            found = await calls.find(db, account_id, wanted)
            assert found is not None
            assert found.call_id == own
        assert [each.call_id for each in await calls.list_calls(db, account_id, limit=9)] == [own]
    assert await calls.find(db, ACME, CALL) is None
    assert await calls.find(db, ACME, f"CA-{CALL}") is None
    # A page that begins after a call of somebody else's is empty: it does not tell when that was.
    assert await calls.list_calls(db, DEFAULT_ACCOUNT, limit=9, before=theirs) == []
    both = await calls.unended(db, began_before=START + 9, limit=9)
    assert [each.call_id for each in both] == [CALL, theirs]


async def test_events_that_an_older_version_stored_keep_the_providers_account(
    db: Database,
) -> None:
    old = {"call_id": CALL, "provider_call_id": "CA1", "account": "AC1"}
    async with db.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO call_events (event_id, call_id, type, time, source, data)"
                " VALUES ('e', :call, 'call.initiated', 1, 'twilio', :data)"
            ),
            {"call": CALL, "data": msgspec.json.encode(old)},
        )
    (told,) = await calls.events(db, CALL)
    assert (told.data.provider_account, told.data.account_id) == ("AC1", DEFAULT_ACCOUNT)
