"""What a role is given to work with, made once by the composition root (`router.runtime`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from config.settings import Settings
from router.clock import Clock
from router.dispatch_health import DispatchHealth
from router.eventlog.base import OpenLog
from router.provider import Carrier
from router.providers.livekit.client import LiveKitClient
from router.storage.engine import Database
from router.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything with a life of its own; whoever holds it must not close it."""

    settings: Settings
    log: OpenLog
    database: Database
    livekit: LiveKitClient
    carriers: Mapping[str, Carrier]  # by the provider's name: those that can be asked or told
    clock: Clock
    supervisor: Supervisor = field(default_factory=Supervisor)
    dispatch_health: DispatchHealth | None = None  # with the role dispatch
