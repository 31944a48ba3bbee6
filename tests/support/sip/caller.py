"""The carrier's SIP leg: real calls by SIPp, each with an RTP port of ours that hears the answer.

    call = SipCall(from_user="+14155550100", to_user=call_id, call_sid="CA…")
    [result] = await place_calls([call], server=sip.address, username="u", password="p")
    assert result.status == 200 and result.audio.hears(440)

How a call went is a value, never an exception: answered, refused (401, 486, …), given up after
`patience` seconds (CANCEL, so 487), or no answer at all (status None, `trouble` says why). One SIPp
process carries one call; what happened is read from its log of messages.
"""

import asyncio
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Final, Literal
from uuid import uuid4

from tests.support.servers.ports import HOST, free_port, free_range
from tests.support.sip.messages import Message, read_messages, without_repeats
from tests.support.sip.rtp import RtpListener, rtp_listener

Transport = Literal["udp", "tcp"]
_SCENARIO: Final = Path(__file__).parent / "assets" / "call.xml"
_TRANSPORTS: Final[Mapping[Transport, str]] = {"udp": "u1", "tcp": "t1"}
_CHALLENGE: Final = 407
_REFUSALS: Final = (400, 401, 403, 404, 408, 480, 486, 488, 500, 502, 503, 504, 600, 603)
_INFO: Final = (
    "INFO sip:caller@{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:9;branch=z9hG4bK-heard\r\n"
    "From: <sip:ear@{host}>;tag=ear\r\nTo: <sip:caller@{host}>\r\nCall-ID: {call_id}\r\n"
    "CSeq: 2 INFO\r\nContent-Length: 0\r\n\r\n"
)
_MARGIN: Final = 15.0  # seconds for what is neither ringing nor holding


@dataclass(frozen=True, kw_only=True)
class SipCall:
    """One call to place. `call_sid`, if any, travels as Twilio sends it, in X-Twilio-CallSid."""

    from_user: str
    to_user: str
    call_sid: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SipResult:
    """How a call went. Times are seconds since its first INVITE."""

    call: SipCall
    audio: RtpListener  # closed; what it heard
    status: int | None  # final response to the last INVITE, None: there was none
    responses: Sequence[int]  # to INVITEs, in order, repeats in a row left out
    ringing_after: float | None
    answered_after: float | None
    ended_after: float | None  # first BYE
    ended_by: Literal["caller", "callee"] | None  # who sent BYE
    trouble: str  # SIPp's own words about what it did not expect

    @property
    def talked(self) -> float:
        """Seconds from the answer to the BYE; not a number if there was none of them."""
        if self.answered_after is None or self.ended_after is None:
            return math.nan
        return self.ended_after - self.answered_after


async def place_calls(
    calls: Sequence[SipCall],
    *,
    server: tuple[str, int],
    username: str = "",
    password: str = "",
    enough: float = 1.5,
    hold: float = 30.0,
    rate: float = 10.0,
    patience: float = 30.0,
    transport: Transport = "udp",
) -> list[SipResult]:
    """Place `calls`, `rate` per second, and wait until all are over; results in the same order.

    A caller who is answered listens until it has heard `enough` seconds of sound, `hold` seconds at
    most, then sends BYE: on a slow machine the sound follows the 200 by seconds. Over TCP the call
    is always held for `hold` seconds. One that is not answered within `patience` seconds is
    cancelled. Username and password answer a 407; without a challenge they are not sent.
    """

    async def later(index: int, call: SipCall) -> SipResult:
        await asyncio.sleep(index / rate)
        with TemporaryDirectory(prefix="switchboard-sipp-") as folder:
            async with rtp_listener() as audio:
                work = _Work(Path(folder), call, audio)
                work.write_scenario(hold=hold, patience=patience)
                limit = hold + patience + _MARGIN
                await work.run(server, username, password, transport, enough, limit)
                return work.result()

    return list(await asyncio.gather(*(later(*each) for each in enumerate(calls))))


@dataclass(frozen=True)
class _Work:
    """One SIPp process: its files in `folder`."""

    folder: Path
    call: SipCall
    audio: RtpListener

    def write_scenario(self, *, hold: float, patience: float) -> None:
        sid = {"X-Twilio-CallSid": self.call.call_sid} if self.call.call_sid else {}
        headers = {**sid, **self.call.headers}
        scenario = Template(_SCENARIO.read_text(encoding="iso-8859-1")).substitute(
            from_user=self.call.from_user,
            to_user=self.call.to_user,
            headers="\n    ".join(f"{name}: {value}" for name, value in headers.items()),
            refusals="\n  ".join(
                f'<recv response="{status}" optional="true" next="5"/>' for status in _REFUSALS
            ),
            rtp_port=self.audio.port,
            hold_ms=round(hold * 1000),
            patience_ms=round(patience * 1000),
        )
        (self.folder / "call.xml").write_text(scenario, encoding="iso-8859-1")

    async def run(
        self,
        server: tuple[str, int],
        username: str,
        password: str,
        transport: Transport,
        enough: float,
        limit: float,
    ) -> None:
        """Until SIPp ends, `limit` seconds at most; a cancelled task takes its SIPp with it."""
        host, port = server
        local, call_id = free_port(), uuid4().hex
        with (self.folder / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *("sipp", f"{host}:{port}", "-sf", "call.xml", "-m", "1", "-nostdin"),
                *("-t", _TRANSPORTS[transport], "-i", HOST, "-p", str(local), "-cid_str", call_id),
                # SIPp's own media and control ports, else all processes would fight for the same.
                *("-mi", HOST, "-mp", str(free_range(4)), "-ci", HOST, "-cp", str(free_port())),
                *(("-au", username, "-ap", password) if username else ()),
                *("-trace_msg", "-message_file", "messages", "-trace_err", "-error_file", "errors"),
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        hanging_up = asyncio.create_task(self.hang_up_after(enough, local, call_id))
        try:
            async with asyncio.timeout(limit):
                await process.wait()
        except TimeoutError:
            pass  # the log tells how far it came
        finally:
            hanging_up.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def hang_up_after(self, enough: float, port: int, call_id: str) -> None:
        """Tell SIPp, which can't hear, that the caller has heard enough."""
        await self.audio.listen(enough)
        told = _INFO.format(host=HOST, port=port, call_id=call_id)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(told.encode(), (HOST, port))

    def result(self) -> SipResult:
        messages = list(read_messages(self._text("messages")))
        start = messages[0].time if messages else 0.0
        responses = [each for each in messages if each.method == "INVITE" and each.received]
        finals = [each.status for each in responses if each.status >= 200]
        bye = next((each for each in messages if each.method == "BYE" and not each.status), None)
        return SipResult(
            call=self.call,
            audio=self.audio,
            status=finals[-1] if finals and finals[-1] != _CHALLENGE else None,
            responses=without_repeats(each.status for each in responses),
            ringing_after=_first(responses, 180, start),
            answered_after=_first(responses, 200, start),
            ended_after=None if bye is None else bye.time - start,
            ended_by=None if bye is None else ("callee" if bye.received else "caller"),
            trouble=self._text("errors").strip(),
        )

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""


def _first(responses: Sequence[Message], status: int, start: float) -> float | None:
    return next((each.time - start for each in responses if each.status == status), None)
