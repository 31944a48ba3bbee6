"""The caller's ear: an RTP port that hears which agent speaks.

Each agent under test plays its own tone. A tone's score is its share of the sound's power, so 1.0
is that pure tone and 0.0 is anything else, whatever the volume. Choose tones that are multiples of
10 Hz: over a block of 100 ms they do not disturb each other at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from tests.support.servers.ports import HOST

SAMPLE_RATE: Final = 8000  # Hz; PCMU, RFC 3551 §4.5.14
_PCMU: Final = 0  # payload type, RFC 3551 table 4
_HEADER: Final = 12  # octets, RFC 3550 §5.1
_BLOCK: Final = 800  # samples: 100 ms
_PACKETS: Final = 5  # of 20 ms: a block
_SILENCE: Final = 200.0  # RMS of 16-bit samples below which nothing is heard
_PACKET: Final = 0.02  # seconds of sound, as livekit-sip sends it
_HEARD: Final = 0.5  # share of the power; codecs and resampling leave a pure tone above 0.9


def _ulaw_table() -> NDArray[np.int16]:
    """All 256 codes → 16-bit samples (ITU-T G.711, table 2a)."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int16) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)


_ULAW: Final = _ulaw_table()


def decode_ulaw(payload: bytes) -> NDArray[np.int16]:
    """µ-law octets → 16-bit samples."""
    return _ULAW[np.frombuffer(payload, dtype=np.uint8)]


def rms(samples: NDArray[np.int16]) -> float:
    """The root of the mean square, 0.0 for no samples."""
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean())) if len(samples) else 0.0


def tone_score(samples: NDArray[np.int16], frequency: float) -> float:
    """The tone's share of the sound's power, 0.0 to 1.0.

    The blocks are correlated one by one: a lost packet or a drifting clock breaks the phase between
    blocks, not the score. Silent blocks count for nothing.
    """
    blocks = samples[: len(samples) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).astype(np.float64)
    power = float((blocks**2).mean(axis=1).sum()) if len(blocks) else 0.0
    if power <= _SILENCE**2:
        return 0.0
    wave = np.exp(-2j * np.pi * frequency / SAMPLE_RATE * np.arange(_BLOCK))
    at_frequency = 2 * np.abs(blocks @ wave / _BLOCK) ** 2
    return float(at_frequency.sum()) / power


class RtpListener(asyncio.DatagramProtocol):
    """What arrived on one port, in order of the sender's timestamps."""

    def __init__(self) -> None:
        self._payloads: dict[int, bytes] = {}  # timestamp → payload; a repeat overwrites itself
        self._arrived: dict[int, float] = {}  # timestamp → monotonic seconds
        self._transport: asyncio.DatagramTransport | None = None
        self._loud = 0  # packets that are not silence
        self._news = asyncio.Event()  # one more of them

    @override
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    @override
    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) <= _HEADER or data[0] != 0x80 or data[1] & 0x7F != _PCMU:
            return  # RTCP, DTMF, or not RTP: no sound
        self._payloads[int.from_bytes(data[4:8])] = data[_HEADER:]
        self._arrived[int.from_bytes(data[4:8])] = time.monotonic()
        if rms(decode_ulaw(data[_HEADER:])) > _SILENCE:
            self._loud += 1
            self._news.set()

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._transport is None:
            raise RuntimeError("listen first: `async with rtp_listener() as listener`")
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    @override
    def __repr__(self) -> str:
        return f"RtpListener({self.packets} packets, {self._loud} of them not silent)"

    @property
    def packets(self) -> int:
        """Distinct packets of sound so far."""
        return len(self._payloads)

    async def listen(self, seconds: float) -> None:
        """Until that much was heard that is not silence."""
        while self._loud * _PACKET < seconds:
            self._news.clear()
            await self._news.wait()

    def samples(self) -> NDArray[np.int16]:
        """All sound so far, 16 bit, 8 kHz; gaps are left out."""
        return decode_ulaw(b"".join(payload for _, payload in sorted(self._payloads.items())))

    def scores(self, frequencies: Iterable[float]) -> Mapping[float, float]:
        """Tone → score, as `tone_score`."""
        samples = self.samples()
        return {frequency: tone_score(samples, frequency) for frequency in frequencies}

    def moments(self, frequency: float) -> list[float]:
        """When this tone was heard: the arrival of each 100 ms of sound that is mostly it."""
        found: list[float] = []
        packets = sorted(self._payloads)
        for start in range(0, len(packets), _PACKETS):
            block = packets[start : start + _PACKETS]
            samples = decode_ulaw(b"".join(self._payloads[each] for each in block))
            if tone_score(samples, frequency) > _HEARD:
                found.append(self._arrived[block[0]])
        return found

    def hears(self, frequency: float) -> bool:
        """Whether this tone is most of what was heard."""
        return tone_score(self.samples(), frequency) > _HEARD


@asynccontextmanager
async def rtp_listener() -> AsyncIterator[RtpListener]:
    """A listener on a free port; what it heard can be asked after it is closed too."""
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(RtpListener, local_addr=(HOST, 0))
    try:
        yield listener
    finally:
        transport.close()
