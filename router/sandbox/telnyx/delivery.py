"""Events on their way: tried in order, tried again on failure, shuffled and doubled on request.

The first try of a call's events is made one after the other. One that fails goes to the failover
URL at once and is then tried again after each of `retries`, beside those that follow it: Telnyx
promises no order. What it documents of the schedule contradicts itself; this one is the sandbox's.
"""

import random
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from router.clock import Clock
from router.sandbox.tasks import Signal, Tasks
from router.sandbox.telnyx.call import Call
from router.sandbox.telnyx.webhook import WebhookFailed, WebhookSender
from router.sandbox.twilio.delivery import Disorder


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. Times in µs since the epoch; status 0: no answer."""

    url: str
    started_at: int
    finished_at: int
    status: int

    @property
    def ok(self) -> bool:
        """Whether it was taken."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class Delivery:
    """An event and what became of it; no status while it is still tried."""

    event: Mapping[str, Any]
    started_at: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    attempts: list[Attempt] = field(default_factory=list)
    status: Literal["", "delivered", "failed"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """How a Call Control application is told; times in seconds."""

    url: str
    failover_url: str = ""
    retries: Sequence[float] = (1.0, 5.0)

    def tries(self) -> Iterator[tuple[float, str]]:
        """How long to wait before each try, and where it goes."""
        for pause in (0.0, *self.retries):
            yield pause, self.url
            if self.failover_url:
                yield 0.0, self.failover_url


class Post:
    """What all calls of an application share: who sends, how, and what was sent."""

    def __init__(
        self,
        sender: WebhookSender,
        application: Application,
        disorder: Disorder,
        clock: Clock,
        tasks: Tasks,
        deliveries: deque[Delivery],
    ) -> None:
        self.application, self.disorder, self.clock, self.tasks = (
            application,
            disorder,
            clock,
            tasks,
        )
        self.deliveries = deliveries  # the account's
        self._sender = sender

    async def attempt(self, delivery: Delivery, url: str, number: int) -> Attempt:
        """Send it once."""
        meta = {"attempt": number, "delivered_to": url}
        body = msgspec.json.encode({"data": delivery.event, "meta": meta})
        started_at, status = self.clock.now(), 0
        with suppress(WebhookFailed):  # status 0 says so
            status = (await self._sender.post(url, body, "application/json")).status
        attempt = Attempt(url, started_at, self.clock.now(), status)
        delivery.attempts.append(attempt)
        return attempt


class Outbox:
    """The events of one call."""

    def __init__(self, post: Post, call: Call) -> None:
        self._post, self._call = post, call
        self._random = random.Random(post.disorder.seed)  # noqa: S311 - a shuffle, no secret
        self._waiting: list[Delivery] = []
        self._changed = Signal()
        self._is_closed = False
        self._is_drained = False
        post.tasks.spawn(self._drain())

    def add(self, event: Mapping[str, Any]) -> None:
        """Send an event some time later."""
        delivery = Delivery(event, self._post.clock.now())
        self._post.deliveries.append(delivery)
        self._waiting.extend([delivery] * self._post.disorder.copies)
        self._changed.fire()

    async def close(self) -> None:
        """Nothing comes any more; returns when everything was tried."""
        self._is_closed = True
        self._changed.fire()
        await self._changed.until(lambda: self._is_drained)

    async def _drain(self) -> None:
        window = self._post.disorder.window
        while True:
            await self._changed.until(lambda: self._is_closed or len(self._waiting) >= window)
            if not self._waiting:
                break
            reach = len(self._waiting) if window > 1 else 1
            await self._send(self._waiting.pop(self._random.randrange(reach)))
        self._is_drained = True
        self._changed.fire()

    async def _send(self, delivery: Delivery) -> None:
        tries = enumerate(self._post.application.tries(), start=1)
        number, (_, url) = next(tries)
        if not await self._try(delivery, url, number):
            self._post.tasks.spawn(self._send_again(delivery, tries))

    async def _send_again(
        self, delivery: Delivery, tries: Iterator[tuple[int, tuple[float, str]]]
    ) -> None:
        for number, (pause, url) in tries:
            await self._post.clock.sleep(pause)
            if await self._try(delivery, url, number):
                return
        delivery.status = delivery.status or "failed"

    async def _try(self, delivery: Delivery, url: str, number: int) -> bool:
        about = delivery.event["event_type"]
        asks = about == "call.initiated" and delivery.event["payload"]["direction"] == "incoming"
        if asks:  # the call waits for a command
            self._call.step("webhook.sent", url=url, about=about)
        attempt = await self._post.attempt(delivery, url, number)
        done = "webhook.answered" if asks else "callback.sent"
        self._call.step(done, url=url, about=about, status=attempt.status)
        if attempt.ok:
            delivery.status = "delivered"
        return attempt.ok
