"""What the ingress does with a webhook, without HTTP and without a log."""

from collections.abc import Sequence

from router.errors import BadPayload, BadSignature
from router.events import codec
from router.events.model import Event
from router.events.text import plain
from router.provider import Verified, WebhookRequest, WebhookSource
from router.routing.decide import decide
from router.routing.table import RouteTable
from tests.providers.case import Raw
from tests.providers.found import endpoint_of, request_of


def take(source: WebhookSource, raw: Raw, received_at: int, routes: RouteTable) -> Sequence[Event]:
    """Verify (or diagnose), parse, decide, encode, reply: what router/ingress/webhook.py does.

    Raises:
        WebhookError: the request is refused, with 403 or 400; nothing else may be raised.
        Unrouted: no handler gets to see it.
    """
    endpoint = endpoint_of(source, raw)
    request = request_of(endpoint, raw, received_at)
    events = [decide(plain(event), routes) for event in source.parse(_verified(source, request))]
    if not events:
        raise BadPayload("the webhook holds no event")
    if not endpoint.storeless:
        for event in events:
            store(event)
    source.reply(endpoint.kind, events[0])
    return events


def _verified(source: WebhookSource, request: WebhookRequest) -> Verified:
    try:
        return source.verify(request)
    except BadSignature:
        source.diagnose(request)
        raise


def store(event: Event) -> Event:
    """The event as it is read from the log. Raises BadPayload where it can't be stored."""
    try:
        headers, value = codec.encode(event)
        for text in (event.key, *headers.values()):
            text.encode()
    except (ValueError, OverflowError) as error:
        raise BadPayload("it makes an event that can't be stored") from error
    return codec.decode(event.key, headers, value)
