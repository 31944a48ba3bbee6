"""A SIP call as both of its ends see it: what the carrier's stand-in dials and LiveKit's takes.

A leg goes `trying → ringing → answered → ended`. It may skip `ringing`, and `answered` when it is
refused or given up. Its status is the final response to the INVITE (RFC 3261 §13.2.2): 200, a
refusal of 4xx to 6xx, 487 when the caller gave up first, 0 as long as there is none. The callee's
end calls `ring`, `answer`, `refuse` and `bye`; the caller's end only `hangup`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from router.sandbox.tasks import Signal

Transport = Literal["udp", "tcp", "tls"]

OK: Final = 200
REQUEST_TERMINATED: Final = 487  # RFC 3261 §21.4.25: the caller sent CANCEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """What an INVITE says. Users are those of the To, From and credentials; never whole URIs."""

    to_user: str
    from_user: str
    username: str = ""
    password: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    source_ip: str = "127.0.0.1"
    transport: Transport = "udp"


class Leg:
    """One SIP call. Every transition can be awaited by any number of waiters."""

    def __init__(self) -> None:
        self.status = 0
        self.is_ringing = False
        self.is_ended = False
        self.ended_by: Literal["", "caller", "callee"] = ""
        self.room = ""  # LiveKit's room, once it has one
        self.takes_refer = True  # whether the caller's end lets itself be sent elsewhere
        self.referred_to = ""
        self._changed = Signal()

    @property
    def is_answered(self) -> bool:
        """Whether a 200 was sent, also after the end."""
        return self.status == OK

    async def ringing(self) -> bool:
        """Wait for the first 180. False when the call ended without one."""
        await self._changed.until(lambda: self.is_ringing or self.is_answered or self.is_ended)
        return self.is_ringing

    async def answered(self) -> bool:
        """Wait for the 200. False when the call ended without one."""
        await self._changed.until(lambda: self.is_answered or self.is_ended)
        return self.is_answered

    async def ended(self) -> int:
        """Wait for the end; returns the final status of the INVITE."""
        await self._changed.until(lambda: self.is_ended)
        return self.status

    def hangup(self) -> None:
        """The caller leaves: CANCEL (487) before the answer, BYE after it."""
        self._end("caller", self.status or REQUEST_TERMINATED)

    def ring(self) -> None:
        """The callee sends 180."""
        self.is_ringing = self.is_ringing or not self.is_ended
        self._changed.fire()

    def answer(self) -> None:
        """The callee sends 200."""
        if not self.is_ended:
            self.status = OK
            self._changed.fire()

    def refuse(self, status: int) -> None:
        """The callee sends a final 4xx to 6xx."""
        self._end("callee", status)

    def refer(self, to: str) -> bool:
        """The callee has the caller's end call `to` instead (RFC 3515); whether it does."""
        if not (self.takes_refer and self.is_answered and not self.is_ended):
            return False
        self.referred_to = to
        self.bye()
        return True

    def bye(self) -> None:
        """The callee ends an answered call."""
        self._end("callee", self.status)

    def _end(self, by: Literal["caller", "callee"], status: int) -> None:
        if not self.is_ended:
            self.status, self.is_ended, self.ended_by = status, True, by
            self._changed.fire()


DialSip = Callable[[Invite], Leg]
"""Sends an INVITE and returns at once; the leg tells the rest."""
