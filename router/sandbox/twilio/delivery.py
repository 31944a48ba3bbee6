"""Webhooks out of order and more than once: what Twilio may do, done on purpose.

Status callbacks are sent beside the call and never delay it. Without disorder one call's callbacks
go out one after the other, once. With it each goes out `copies` times, and of `window` that are
waiting a random one goes first, by `seed`, so that a failing run can be repeated.
"""

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.sandbox.tasks import Signal, Tasks
from router.sandbox.twilio.errors import TwilioError
from router.sandbox.twilio.webhook import WebhookSender


@dataclass(frozen=True, slots=True, kw_only=True)
class Disorder:
    """How webhooks are repeated and shuffled; the default is neither."""

    copies: int = 1
    window: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Callback:
    url: str
    params: Mapping[str, str]
    method: str
    token: str


OnSent = Callable[[Mapping[str, str], int | str], None]
"""Told the parameters, and the HTTP status or what went wrong."""


class CallbackQueue:
    """The status callbacks of one call."""

    def __init__(
        self, sender: WebhookSender, disorder: Disorder, tasks: Tasks, on_sent: OnSent
    ) -> None:
        self._sender, self._disorder, self._on_sent = sender, disorder, on_sent
        self._random = random.Random(disorder.seed)  # noqa: S311 - a shuffle, no secret
        self._waiting: list[_Callback] = []
        self._changed = Signal()
        self._is_closed = False
        self._is_drained = False
        tasks.spawn(self._drain())

    def add(self, url: str, params: Mapping[str, str], method: str) -> None:
        """Send a callback some time later."""
        callback = _Callback(url, params, method, str(uuid.uuid4()))
        self._waiting.extend([callback] * self._disorder.copies)
        self._changed.fire()

    async def close(self) -> None:
        """Nothing comes any more; returns when everything was sent."""
        self._is_closed = True
        self._changed.fire()
        await self._changed.until(lambda: self._is_drained)

    async def _drain(self) -> None:
        while True:
            await self._changed.until(
                lambda: self._is_closed or len(self._waiting) >= self._disorder.window
            )
            if not self._waiting:
                break
            await self._send(self._waiting.pop(self._random.randrange(self._reach())))
        self._is_drained = True
        self._changed.fire()

    def _reach(self) -> int:
        return len(self._waiting) if self._disorder.window > 1 else 1

    async def _send(self, callback: _Callback) -> None:
        try:
            response = await self._sender.send(
                callback.url, callback.params, method=callback.method, token=callback.token
            )
        except TwilioError as error:
            self._on_sent(callback.params, str(error))
        else:
            self._on_sent(callback.params, response.status)
