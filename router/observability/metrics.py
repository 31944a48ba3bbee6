"""All metrics in one place. Labels come from closed sets: never a number, a SID or a call id."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

WEBHOOKS: Final = Counter(
    "switchboard_webhooks_total",
    "Webhooks by provider, kind and HTTP status answered",
    ("provider", "kind", "status"),
    registry=REGISTRY,
)
WEBHOOK_SECONDS: Final = Histogram(
    "switchboard_webhook_seconds",
    "From the request's head to its answer",
    ("provider", "kind"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
SHED: Final = Counter(
    "switchboard_shed_total",
    "Requests and connections refused because this process was full",
    ("what",),
    registry=REGISTRY,
)
DECISIONS: Final = Counter(
    "switchboard_decisions_total", "Calls by where they were sent", ("action",), registry=REGISTRY
)
ALERTS: Final = Counter(
    "switchboard_provider_alerts_total",
    "Failures that a provider logged and told us: its requests to us among them",
    ("provider",),
    registry=REGISTRY,
)
HANDLED: Final = Counter(
    "switchboard_events_handled_total",
    "Events that a consumer brought to their end: done or dead",
    ("group", "outcome"),
    registry=REGISTRY,
)
DISPATCHES: Final = Counter(
    "switchboard_dispatches_total",
    "Calls by what became of their dispatch: ready, missing, expired; again: a second try; lost:"
    " the agent of a connected call is to be replaced",
    ("outcome",),
    registry=REGISTRY,
)
AGENT_READY_SECONDS: Final = Histogram(
    "switchboard_agent_ready_seconds",
    "From the call's webhook to the agent's audio",
    buckets=_SECONDS,
    registry=REGISTRY,
)
SILENT_CALLERS: Final = Counter(
    "switchboard_silent_callers_total",
    "Callers who were answered and then heard nobody for more than five seconds: must stay 0",
    registry=REGISTRY,
)
CALLERS_IN_SILENCE: Final = Gauge(
    "switchboard_callers_in_silence",
    "Those of them who are waiting now: must be 0",
    registry=REGISTRY,
)
SENT_ON: Final = Counter(
    "switchboard_callers_sent_on_total",
    "Answered callers whose agent was lost and not replaced, by where they went: fallback, apology",
    ("to",),
    registry=REGISTRY,
)
ROUTES: Final = Gauge("switchboard_routes", "Numbers in the route table", registry=REGISTRY)
ROUTES_VERSION: Final = Gauge(
    "switchboard_routes_version", "Newest change that the route table has seen", registry=REGISTRY
)
RELAY_LAG: Final = Gauge(
    "switchboard_relay_lag_events", "Journal events that Kafka has not taken", registry=REGISTRY
)
RELAY_LAG_SECONDS: Final = Gauge(
    "switchboard_relay_lag_seconds", "Age of the oldest of them", registry=REGISTRY
)
