"""A running process as others see it: the CLI that started it, tests, and who asks /readyz."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from config.settings import Settings
from router.api.role import ApiRole
from router.connections import ConnectionFollower
from router.dispatch_health import DispatchHealth
from router.eventlog.base import OpenLog
from router.eventlog.heartbeat import HeartbeatFollower
from router.ingress.routes import RouteFollower
from router.ingress.webhook import Webhooks
from router.numbers import publish
from router.providers.livekit import setup_loop
from router.storage.clock_skew import ClockSkew
from router.supervisor import Supervisor

PREPARING: Final = "its schema is being brought up to date"
"""What /readyz says of the database before it can be used, where no webhooks are taken."""


@dataclass(slots=True)
class Node:
    """A running process, for whoever started it (the CLI, tests)."""

    settings: Settings
    log: OpenLog
    routes: RouteFollower | None
    livekit_setup: setup_loop.SetupLoop | None
    supervisor: Supervisor
    guard: publish.Guard
    dispatching: DispatchHealth | HeartbeatFollower | None = None  # our own, or what others tell
    clock_skew: ClockSkew | None = None
    webhooks: Webhooks | None = None
    api: ApiRole | None = None
    connections: ConnectionFollower | None = None
    database: str = "ok"  # or why the roles that need it wait
    http_port: int = 0
    api_port: int = 0  # http_port where the API is beside the webhooks; 0: without the role
    stopping: bool = False

    def has_routes(self) -> bool:
        """Whether calls can be decided: the route table is here."""
        return self.routes is not None and self.routes.ready

    def has_connections(self) -> bool:
        """Whether a webhook that no key fits is a stranger's: the tenants' keys are here."""
        return self.connections is None or self.connections.ready

    def health(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether this process can do its job, and the facts (of /readyz)."""
        relay = self.log.relay
        facts: dict[str, Any] = {"roles": list(self.settings.roles), "stopping": self.stopping}
        facts["journal"] = "failed" if self.log.failed.is_set() else "ok"
        if relay is not None:
            facts["kafka"] = {
                "healthy": relay.healthy,
                "behind_events": relay.lag.events,
                "behind_seconds": round(relay.lag.age, 1),
                "trouble": relay.trouble,
            }
        facts["tasks"] = self.supervisor.facts()
        facts["consumers"] = self.supervisor.group_facts()
        if self.connections is not None:
            facts["connections"] = self.connections.facts()
        able = not (self.stopping or self.log.failed.is_set() or self.supervisor.failing)
        if self.routes is not None:
            able = able and self.has_routes()
        elif self.api is not None:  # where calls are answered, that is what counts
            able = able and self.database == "ok"
        return able, facts | self._parts()

    def _parts(self) -> dict[str, Any]:
        """The facts of what only some processes have."""
        facts: dict[str, Any] = {}
        if routes := self._routes():
            facts["routes"] = routes
        if self.settings.roles != ("ingress",):
            facts["database"] = self.database
        if self.api is not None:
            facts["api"] = {"state": self.database, **self.api.facts()}
        if self.livekit_setup is not None:
            facts["livekit"] = self.livekit_setup.status
        if self.dispatching is not None:
            facts["dispatching"] = self.dispatching.trouble() or "ok"
        if self.clock_skew is not None and self.clock_skew.trouble:
            facts["clock"] = self.clock_skew.trouble
        if self.webhooks is not None and (hints := self.webhooks.hints):
            facts["refused"] = hints
        return facts

    def _routes(self) -> Mapping[str, Any]:
        """Of the route table, and of the comparison with the database that guards it."""
        facts = dict(self.routes.facts()) if self.routes is not None else {}
        if self.guard.finding:
            facts["restored"] = self.guard.finding
        if self.guard.comparing:
            facts["comparing"] = True
        return facts
