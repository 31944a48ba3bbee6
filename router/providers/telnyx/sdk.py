"""Telnyx's own SDK, asked as it should be: bounded in time, and with errors that say what happened.

The SDK repeats a POST that failed, orders of numbers too: here it repeats nothing.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import telnyx
from telnyx import AsyncTelnyx

from router.clock import Clock
from router.errors import Ambiguous, ConfigError, EffectError, Permanent, Transient
from router.provider import Credentials, ProviderContext
from router.rest import refusal, tried

NOT_FOUND: Final = "10005"
_TIMEOUT: Final = 10.0  # seconds, of one request

# developers.telnyx.com/development/api-fundamentals/api-errors; what each asks for.
ADVICE: Final[Mapping[str, str]] = {
    "10002": "the phone number is not valid",
    "10009": "it refuses the API key; is it right, and still valid?",
    "10010": "the API key may not do this; see its permissions in Mission Control",
    "10016": "the phone number is not valid",
    "10035": "it has locked this; ask Telnyx's support",
    "20100": "the account has not enough credit; add some in Mission Control",
}


T = TypeVar("T")


class Sdk:
    """The client of one account."""

    def __init__(self, client: AsyncTelnyx, clock: Clock, where: str) -> None:
        self.client, self.clock = client, clock
        self._where = where

    async def ask(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        repeatable: bool = True,
        pages: int = 1,
    ) -> T:
        """What `ask` returns, asked again where that is safe (`router.rest.tried`)."""

        async def once() -> T:
            try:
                async with asyncio.timeout(_TIMEOUT * pages):
                    return await ask()
            except (TimeoutError, telnyx.APIError) as error:
                raise self._error(error) from error

        return await tried(self.clock, once, repeatable=repeatable)

    def _error(self, error: Exception) -> EffectError:
        match error:
            case telnyx.APIStatusError():
                code = _code(error.body) or (NOT_FOUND if error.status_code == 404 else "")
                if 300 <= error.status_code < 400:
                    return Permanent("Telnyx redirects: is providers.telnyx.api_url right?")
                return refusal(
                    "Telnyx",
                    error.status_code,
                    code=code,
                    headers=error.response.headers,
                    advice=ADVICE.get(code, ""),
                )
            case telnyx.APIConnectionError(__cause__=httpx.ConnectError() | httpx.ConnectTimeout()):
                return Transient(f"{self._where} can't be reached")
            case TimeoutError() | telnyx.APITimeoutError():
                return Ambiguous(f"{self._where} did not answer within {_TIMEOUT:g} s")
            case telnyx.APIConnectionError():
                return Ambiguous(f"the connection to {self._where} broke")
            case _:
                return Ambiguous("Telnyx answered something that can't be read")


@asynccontextmanager
async def open_sdk(context: ProviderContext, credentials: Credentials | None) -> AsyncIterator[Sdk]:
    """The operator's account, or a connection's. Raises ConfigError: there is no API key."""
    settings = context.settings.providers.telnyx
    if credentials is None:
        key = settings.api_key.get_secret_value()
        missing = "providers.telnyx.api_key: is missing; numbers are bought with it"
    else:
        key = credentials.secrets.get("api_key", "")
        missing = f"the connection {credentials.connection_id} lacks its api_key"
    if not key:
        raise ConfigError(missing, key="" if credentials else "providers.telnyx.api_key")
    # Redirects are not followed: they would carry the key to wherever they point.
    http = telnyx.DefaultAsyncHttpxClient(
        follow_redirects=False, trust_env=False, verify=_certificates()
    )
    async with AsyncTelnyx(
        api_key=key,
        base_url=settings.api_url,
        max_retries=0,
        timeout=httpx.Timeout(_TIMEOUT),
        http_client=http,
    ) as client:
        where = urlsplit(settings.api_url).netloc.rpartition("@")[2]
        yield Sdk(client, context.clock, f"Telnyx at {where}")


@cache
def _certificates() -> ssl.SSLContext:
    """Those that are trusted: reading them takes longer than a request."""
    return ssl.create_default_context()


def _code(body: object) -> str:
    """The code of the first error in `{"errors": [{"code", "title", "detail"}]}`."""
    try:
        return str(body["errors"][0]["code"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError):
        return ""
