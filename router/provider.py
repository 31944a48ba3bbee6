"""What a provider folder supplies: pure verification, parsing and reply. No I/O, no aiohttp."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from router.events.model import Event

_CLOCK_SLACK = 2_000_000  # µs


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A webhook as it arrived. `target` and `body` are the very bytes that a signature covers."""

    kind: str  # which of the provider's webhooks: the last part of the path
    target: str  # path and query as received, never decoded or normalised
    headers: Mapping[str, str]  # case-insensitive
    body: bytes
    received_at: int  # µs since epoch


class Reply(NamedTuple):
    """What the provider gets."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Verified:
    """A request whose sender is proven, with what verifying it has already read."""

    request: WebhookRequest
    content: Any  # the provider's own: a form, a parsed message


class WebhookSource(Protocol):
    """One provider's webhooks. Everything is a function of its arguments and the settings."""

    @property
    def name(self) -> str:
        """The provider's, also the part of the path after /webhooks/."""

    @property
    def kinds(self) -> Sequence[str]:
        """The webhooks that it takes, as the part of the path after its name."""

    @property
    def storeless(self) -> Sequence[str]:
        """Those of `kinds` that are answered without touching the log."""

    def verify(self, request: WebhookRequest) -> Verified:
        """Raise BadSignature unless the provider sent exactly this."""

    def parse(self, verified: Verified) -> Sequence[Event]:
        """The events in a request; the first one decides the reply. Raises BadPayload."""

    def reply(self, kind: str, event: Event) -> Reply:
        """The answer that follows from the (stored) event: equal events, equal bytes."""


def happened_at(claimed: int, received_at: int) -> int:
    """When it happened: our clock, unless the provider says that it was a while ago.

    Providers' times have a resolution of a second, which would put a call's events out of order;
    but a delayed or repeated webhook tells of the past, and then theirs is the better one.
    """
    return claimed if claimed and received_at - claimed > _CLOCK_SLACK else received_at
