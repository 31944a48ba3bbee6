"""The Call Control application by which calls of an account's numbers reach this installation.

There is one of each installation and connection, found by its name. Its webhooks are set to version
2, which is not the default (Telnyx's OpenAPI, call_control_applications).
"""

from typing import Any, Final

from telnyx.types import CallControlApplication

from router.errors import Ambiguous, ConfigError, Permanent
from router.providers.telnyx.sdk import Sdk

_MOST: Final = 250  # items on a page


class Application:
    """An account's; `connection_id` "" is the operator's."""

    def __init__(self, sdk: Sdk, public_url: str, connection_id: str) -> None:
        self._sdk = sdk
        self._public_url, self._connection_id = public_url, connection_id
        self._id = ""  # once it was looked for

    async def ensure(self) -> str:
        """Its id; it is made where there is none. Raises ConfigError, EffectError."""
        if not self._public_url:
            raise ConfigError(
                "public_url: is missing; a number's webhooks are set to it", key="public_url"
            )
        if await self.find(mend=True):
            return self._id
        try:
            made = await self._sdk.ask(
                lambda: self._sdk.client.call_control_applications.create(
                    application_name=self._name, **self._webhooks
                ),
                repeatable=False,
            )
        except Permanent:
            if await self.find():  # somebody else made it at the same moment
                return self._id
            raise
        if made.data is None or not made.data.id:
            raise Ambiguous("Telnyx described an application in a way that can't be read")
        self._id = made.data.id
        return self._id

    async def find(self, *, mend: bool = False) -> str:
        """Its id, "" where there is none; with `mend`, its webhooks are ours afterwards."""
        if self._id:
            return self._id

        async def ask() -> list[CallControlApplication]:
            pages = self._sdk.client.call_control_applications.list(
                filter={"application_name": {"contains": self._name}},
                page_size=_MOST,
                sort="created_at",
            )
            return [each async for each in pages if each.application_name == self._name and each.id]

        found = await self._sdk.ask(ask, pages=2)
        if not found:
            return ""
        oldest = found[0]  # of two that were made at once, everybody takes the same one
        application = oldest.id or ""
        if mend and any(getattr(oldest, key) != value for key, value in self._webhooks.items()):
            await self._sdk.ask(
                lambda: self._sdk.client.call_control_applications.update(
                    application, application_name=self._name, **self._webhooks
                )
            )
        self._id = application
        return application

    @property
    def _name(self) -> str:
        host = self._public_url.partition("://")[2]
        of_connection = f" {self._connection_id}" if self._connection_id else ""
        return f"Switchboard {host}{of_connection}"

    @property
    def _webhooks(self) -> Any:
        path = f"/c/{self._connection_id}" if self._connection_id else ""
        url = f"{self._public_url}/webhooks/telnyx{path}"
        return {
            "webhook_event_url": url,
            # Where an event goes that was not taken: without it, nowhere.
            "webhook_event_failover_url": url,
            "webhook_api_version": "2",
        }
