"""LiveKit's webhooks: signed, in order per room, retried, and lost when nobody takes them.

Source: protocol webhook/*.go. A queue per room; five attempts, 1 to 30 seconds apart, on a lost
connection, 429 or 5xx. Anything else counts as delivered, a 4xx too. Events that waited more than
30 s or behind 200 others are dropped; nothing is kept on disk.
"""

import base64
import hashlib
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import aiohttp
from google.protobuf import json_format
from livekit.api import AccessToken
from livekit.protocol.webhook import WebhookEvent

from router.clock import Clock
from router.sandbox.livekit.ids import EVENT, new_id
from router.sandbox.tasks import Tasks

_ATTEMPTS: Final = 5
_FIRST_BACKOFF: Final = 1.0
_LAST_BACKOFF: Final = 30.0
_MAX_QUEUED: Final = 200
_MAX_AGE: Final = 30.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_TOKEN_TTL: Final = timedelta(minutes=5)
_HISTORY: Final = 10_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: `status` 0 when there was no answer."""

    event: WebhookEvent
    number: int
    status: int


@dataclass(slots=True)
class _Queued:
    event: WebhookEvent
    at: float


class Webhooks:
    """Sends events to `url`; with None they stay away, as behind a wrong configuration."""

    def __init__(
        self, url: str | None, api_key: str, api_secret: str, clock: Clock, tasks: Tasks
    ) -> None:
        self.url = url
        self.attempts: deque[Attempt] = deque(maxlen=_HISTORY)
        self._key, self._secret = api_key, api_secret
        self._clock = clock
        self._tasks = tasks
        self._queues: dict[str, deque[_Queued]] = {}
        self._dropped = 0
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Give up the connections; events that still wait are lost."""
        if self._session is not None:
            await self._session.close()

    def send(self, event: WebhookEvent) -> None:
        """Queue an event behind the others of its room; it gets its id and time here."""
        if self.url is None:
            return
        event.id = new_id(EVENT)
        event.created_at = self._clock.now() // 1_000_000
        queue = self._queues.get(event.room.name)
        if queue is None:
            queue = self._queues[event.room.name] = deque()
            self._tasks.spawn(self._drain(event.room.name, queue))
        if len(queue) >= _MAX_QUEUED:
            self._dropped += 1
            return
        queue.append(_Queued(event, self._clock.monotonic()))

    async def _drain(self, room: str, queue: deque[_Queued]) -> None:
        # The first `send` fills the queue before this task runs for the first time.
        while queue:
            entry = queue.popleft()
            if self._clock.monotonic() - entry.at > _MAX_AGE:
                self._dropped += 1
                continue
            entry.event.num_dropped, self._dropped = self._dropped, 0
            await self._deliver(entry.event)
        del self._queues[room]

    async def _deliver(self, event: WebhookEvent) -> None:
        body = json_format.MessageToJson(event, indent=None).encode()
        headers = {"Authorization": self._token(body), "Content-Type": "application/webhook+json"}
        backoff = _FIRST_BACKOFF
        for number in range(1, _ATTEMPTS + 1):
            status = await self._post(body, headers)
            self.attempts.append(Attempt(event, number, status))
            if 0 < status < 500 and status != 429:
                return
            if number < _ATTEMPTS:
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)
        self._dropped += 1

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        if self.url is None:
            return 0
        try:
            async with self._session.post(self.url, data=body, headers=headers) as response:
                return response.status
        except (TimeoutError, aiohttp.ClientError):
            return 0

    def _token(self, body: bytes) -> str:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        token = AccessToken(self._key, self._secret).with_ttl(_TOKEN_TTL).with_sha256(digest)
        return token.to_jwt()
