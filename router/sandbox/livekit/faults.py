"""Faults on demand: what a test wants the server to do wrong, method by method."""

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from router.sandbox.livekit.errors import HTTP_STATUS

_LIMIT: Final = 1000


@dataclass(slots=True)
class Faults:
    """Each entry is used once, first in, first out. Methods are named as in `CreateDispatch`."""

    refusing: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    _codes: dict[str, deque[str]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_LIMIT))
    )
    _hangs: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def fail(self, method: str, code: str, times: int = 1) -> None:
        """The next `times` calls of `method` change nothing and answer the Twirp error `code`.

        Raises:
            ValueError: `code` is no Twirp error code.
        """
        if code not in HTTP_STATUS:
            raise ValueError(f"{code!r} is no Twirp error code; use one of {sorted(HTTP_STATUS)}")
        self._codes[method].extend([code] * times)

    def hang_after_apply(self, method: str, times: int = 1) -> None:
        """The next `times` calls of `method` take effect and are never answered."""
        self._hangs[method] += times

    def refuse(self) -> None:
        """Every connection is closed without an answer, nothing takes effect."""
        self.refusing = True

    def accept(self) -> None:
        """The end of `refuse`."""
        self.refusing = False

    def take_code(self, method: str) -> str:
        """The error that this call must answer, empty for none."""
        codes = self._codes[method]
        return codes.popleft() if codes else ""

    def take_hang(self, method: str) -> bool:
        """Whether this call must never be answered."""
        if self._hangs[method] == 0:
            return False
        self._hangs[method] -= 1
        return True
