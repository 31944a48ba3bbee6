"""Keeps trying to set LiveKit up until it is: LiveKit may be down when Switchboard starts."""

from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from router.clock import Clock
from router.errors import EffectError, StorageError
from router.observability import log
from router.providers.livekit import setup
from router.providers.livekit.client import LiveKitClient
from router.secrets import SipCredentials

logger = log.get(__name__)

_RETRY: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_LOOK_AGAIN: Final = 300.0  # somebody may delete the trunk: calls then fail until it is made again


class Lease(Protocol):
    """Held by one process at a time (`router.storage.leader`)."""

    def __call__(self) -> AbstractAsyncContextManager[bool]:
        """Whether this process has it."""


class SetupLoop:
    """`status` is what /readyz and doctor show."""

    def __init__(
        self, client: LiveKitClient, lease: Lease, credentials: SipCredentials, clock: Clock
    ) -> None:
        self._client = client
        self._lease = lease
        self._credentials = credentials
        self._clock = clock
        self.status = "setting up"

    async def run(self) -> None:
        """Ensure the trunk and the rule, now and from time to time."""
        failures = 0
        while True:
            try:
                async with self._lease() as leading:
                    if leading:
                        await self._ensure()
                failures = 0
                await self._clock.sleep(_LOOK_AGAIN if leading else _RETRY[-1])
            except (EffectError, StorageError) as error:
                self.status = str(error)
                pause = _RETRY[min(failures, len(_RETRY) - 1)]
                failures += 1
                logger.warning("livekit.setup_failed", why=str(error), retry_in=pause)
                await self._clock.sleep(pause)

    async def _ensure(self) -> None:
        done = await setup.ensure(self._client, self._credentials)
        if {done.trunk, done.rule} != {"found"} or self.status != "ok":
            logger.info("livekit.set_up", trunk=done.trunk, rule=done.rule)
        self.status = "ok"
