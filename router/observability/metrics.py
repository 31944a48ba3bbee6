"""All metrics in one place. Labels come from closed sets: never a number, a SID or a call id.

A series must exist before its first event: `increase()` sees no growth in one that is born with the
value 1. What has its labels from a closed set that is known here begins at 0 here; labels that name
a provider's webhooks or a consumer begin where these are set up (`router.ingress.webhook`,
`consumers.attempts`).
"""

from importlib import metadata
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from router.events.model import Decision

# A second series for each counter, of which no alert makes use.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # process_*: CPU, memory, open files, start time
PlatformCollector(registry=REGISTRY)  # python_info

BUILD: Final = Info("switchboard_build", "The running version", registry=REGISTRY)
BUILD.info({"version": metadata.version("switchboard")})

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
API_REQUESTS: Final = Counter(
    "switchboard_api_requests_total",
    "Requests of the control API by dialect, operation and HTTP status answered",
    ("dialect", "operation", "status"),
    registry=REGISTRY,
)
API_SECONDS: Final = Histogram(
    "switchboard_api_request_seconds",
    "From the request's head to its answer",
    ("dialect", "operation"),
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
    "Calls by what became of their dispatch: ready, missing, expired; gone: the caller had left"
    " before it began; again: a second try; lost: the agent of a connected call is to be replaced",
    ("outcome",),
    registry=REGISTRY,
)
DISPATCHING: Final = Gauge(
    "switchboard_dispatching",
    "Whether calls get agents in this process: 0 sends them to their fallback at once",
    registry=REGISTRY,
)
DISPATCHING.set(1)
CLOCK_AHEAD: Final = Gauge(
    "switchboard_clock_ahead_seconds",
    "How far this machine's clock is ahead of the database's; negative: behind",
    registry=REGISTRY,
)
AGENT_READY_SECONDS: Final = Histogram(
    "switchboard_agent_ready_seconds",
    "From the call's webhook to the agent's audio",
    buckets=_SECONDS,
    registry=REGISTRY,
)
CALLS_IN_PROGRESS: Final = Gauge(
    "switchboard_calls_in_progress",
    "Calls whose agent this process brings, or that it looks after until their caller is gone",
    registry=REGISTRY,
)
FSYNC_SECONDS: Final = Histogram(
    "switchboard_journal_fsync_seconds",
    "One commit of the journal with its fsync: what each webhook's answer waits for",
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
FOREIGN: Final = Counter(
    "switchboard_foreign_webhooks_total",
    "Webhooks refused because whoever signed them told of somebody else's number",
    ("provider",),
    registry=REGISTRY,
)
CONNECTIONS: Final = Gauge(
    "switchboard_connections", "Tenants' connections that this process knows", registry=REGISTRY
)
RELAY_LAG: Final = Gauge(
    "switchboard_relay_lag_events", "Journal events that Kafka has not taken", registry=REGISTRY
)
TAKEN_OVER: Final = Counter(
    "switchboard_events_taken_over_total",
    "Events of this process that nobody had handled in time, read from its own journal",
    registry=REGISTRY,
)
UNREAD: Final = Gauge(
    "switchboard_consumer_unread_events",
    "Events in the log that the group's member here has not read",
    ("group",),
    registry=REGISTRY,
)
SILENT_SECONDS: Final = Gauge(
    "switchboard_consumer_silent_seconds",
    "Since the log last gave the group's member here an answer: events, or that there are none",
    ("group",),
    registry=REGISTRY,
)
OPEN_SECONDS: Final = Gauge(
    "switchboard_consumer_open_seconds",
    "Age of the oldest event that the group's member here has in hand",
    ("group",),
    registry=REGISTRY,
)
TASK_RESTARTS: Final = Counter(
    "switchboard_task_restarts_total",
    "Long-lived tasks of the process that ended by themselves and were started again",
    ("task",),
    registry=REGISTRY,
)
RELAY_REFUSED: Final = Counter(
    "switchboard_relay_refused_total",
    "Records that Kafka refused, by the form in which they were sent then: dead, without_value, "
    "left_out",
    ("form",),
    registry=REGISTRY,
)
RELAY_LAG_SECONDS: Final = Gauge(
    "switchboard_relay_lag_seconds", "Age of the oldest of them", registry=REGISTRY
)

for what in ("request", "connection"):
    SHED.labels(what)
for action in get_args(Decision.__annotations__["action"]):
    DECISIONS.labels(action)
for outcome in ("ready", "missing", "expired", "gone", "again", "lost"):
    DISPATCHES.labels(outcome)
for where in ("fallback", "apology"):
    SENT_ON.labels(where)
for form in ("dead", "without_value", "left_out"):
    RELAY_REFUSED.labels(form)
