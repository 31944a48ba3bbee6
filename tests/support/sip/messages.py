"""SIPp's log of messages (`-trace_msg`), read back."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

# ----------------------------------------------- 2026-11-21 13:23:46.176699
# UDP message received [313] bytes :
#
# SIP/2.0 180 Ringing
_ENTRY: Final = re.compile(
    r"^-{20,} (?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)\n"
    r"\S+ message (?P<way>sent|received) .*\n\n(?P<first>.+)\n",
    re.MULTILINE,
)
_CSEQ: Final = re.compile(r"^CSeq:\s*\d+\s+(\w+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Message:
    """A request (`status` 0) or a response to one."""

    time: float  # seconds since the epoch
    received: bool
    method: str  # INVITE, BYE, …: of the request, or of what the response answers
    status: int


def read_messages(log: str) -> Iterator[Message]:
    """All messages of the log, in its order."""
    entries = list(_ENTRY.finditer(log))
    ends = [entry.start() for entry in entries[1:]] + [len(log)]
    for entry, end in zip(entries, ends, strict=True):
        first = entry["first"]
        cseq = _CSEQ.search(log, entry.end(), end)
        if cseq is None:
            continue
        yield Message(
            # SIPp writes local time without a zone; only differences are used.
            time=datetime.fromisoformat(entry["time"]).astimezone().timestamp(),
            received=entry["way"] == "received",
            method=cseq[1].upper(),
            status=int(first.split()[1]) if first.startswith("SIP/2.0 ") else 0,
        )


def without_repeats(statuses: Iterable[int]) -> list[int]:
    """`[100, 180, 180, 200]` → `[100, 180, 200]`: ringing is repeated each second."""
    kept: list[int] = []
    for status in statuses:
        if not kept or kept[-1] != status:
            kept.append(status)
    return kept
