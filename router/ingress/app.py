"""The webhooks' routes, on a listener of `router.http.server`."""

from collections.abc import Sequence

from aiohttp import web

from config.settings import HttpSettings
from router.http.limits import Admission, Bodies, Gate
from router.http.server import IN_FLIGHT
from router.ingress.webhook import Webhooks
from router.provider import WebhookSource


def add_webhooks(
    app: web.Application,
    settings: HttpSettings,
    webhooks: Webhooks,
    sources: Sequence[WebhookSource],
) -> None:
    """Add the routes of every webhook of `sources`."""
    bodies = Bodies(settings.max_bodies)
    # Two gates: requests that wait for a slow log must not shut those out that need none.
    storing, storeless = Gate(settings.max_in_flight), Gate(settings.max_in_flight)
    app[IN_FLIGHT] += [bodies, storing, storeless]
    for source in sources:
        for endpoint in source.endpoints:
            gate = storeless if endpoint.storeless else storing
            limit = min(endpoint.max_body, settings.max_body_bytes)
            handler = webhooks.handler(source, endpoint, Admission(gate, bodies, limit))
            for method in endpoint.methods:
                app.router.add_route(method, f"/webhooks/{source.name}{endpoint.path}", handler)
