"""Calls of a carrier's REST API: bounded in time, and with errors that say what became of them.

| what happened                                 | error       |
|-----------------------------------------------|-------------|
| no connection, 429                            | `Transient` |
| time-out (408), connection lost, 5xx, no JSON | `Ambiguous` |
| any other status but 2xx and 404              | `Permanent` |

Nothing is tried again here: whether that is right depends on what was asked. Redirects are not
followed: they would carry our credentials to wherever they point.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from router.errors import Ambiguous, EffectError, Permanent, Transient

_TIMED_OUT: Final = 408
_TOO_MANY: Final = 429
_MAX_BODY: Final = 8 * 1024 * 1024


def reason(error: aiohttp.ClientError) -> str:
    """Why no answer came, in the system's words where it has some.

    The library's own may repeat the URL with a password or a number in it, and its classes' names
    tell nobody what to do.
    """
    match error:
        case aiohttp.ClientConnectorError(os_error=ConnectionError() as cause) if cause.errno:
            return os.strerror(cause.errno).lower()
        case aiohttp.ClientConnectorError() if error.strerror:
            return error.strerror
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ServerTimeoutError():
            return "no answer in time"
        case aiohttp.ClientPayloadError():
            return "the answer ended too early"
        case aiohttp.ClientResponseError():
            return "what answered is no HTTP"
        case _:
            return "closed before an answer"


class Rest:
    """One API. `code_of` finds the carrier's own error code in an error's JSON."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        name: str,
        url: str,
        timeout: float,
        code_of: Callable[[Any], str],
    ) -> None:
        self._session = session
        self._name = name  # for messages
        self._where = f"{name} at {urlsplit(url).netloc.rpartition('@')[2]}"
        self._url = url.rstrip("/")
        self._timeout = timeout  # seconds
        self._code_of = code_of

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON at `path`, None where there is nothing (404)."""
        return await self._request("GET", path, params=query)

    async def post(
        self,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON that answers, None where there is nothing to post to (404)."""
        body = {"json": json} if form is None else {"data": form}
        return await self._request("POST", path, **body)

    async def _request(self, method: str, path: str, **how: Any) -> Any:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    method, self._url + path, allow_redirects=False, **how
                ) as answer,
            ):
                return self._read(answer, await self._body(answer))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Transient(f"{self._where} can't be reached: {reason(error)}") from error
        except TimeoutError as error:
            raise Ambiguous(f"{self._where} did not answer within {self._timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise Ambiguous(f"the connection to {self._where} broke: {reason(error)}") from error

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()  # StreamReader.read(n) returns what has arrived, which may be less
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > _MAX_BODY:
                raise Ambiguous(f"{self._name} answered more than {_MAX_BODY} bytes")
        return bytes(body)

    def _read(self, answer: aiohttp.ClientResponse, body: bytes) -> Any:
        is_done = 200 <= answer.status < 300  # aiohttp's `ok` would have redirects done as well
        try:
            found = msgspec.json.decode(body) if body else {}
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            if is_done:
                raise Ambiguous(f"{self._name} answered something that is not JSON") from error
            found = {}
        if is_done:
            return found
        if answer.status == 404:
            return None
        raise self._error(answer, found)

    def _error(self, answer: aiohttp.ClientResponse, found: Any) -> EffectError:
        # The carrier's own words may hold a phone number; its code does not.
        code = self._code_of(found)
        text = f"{self._name} answered {answer.status}" + (f", code {code}" if code else "")
        if answer.status == _TOO_MANY:
            after = answer.headers.get("Retry-After", "")
            return Transient(text, retry_after=float(after) if after.isdecimal() else None)
        if answer.status >= 500 or answer.status == _TIMED_OUT:
            return Ambiguous(text)
        return Permanent(text, code=code)


@asynccontextmanager
async def open_rest(
    *,
    name: str,
    url: str,
    timeout: float,
    code_of: Callable[[Any], str],
    headers: Mapping[str, str],
) -> AsyncIterator[Rest]:
    """An API whose every request has these headers: they say who asks."""
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Rest(session, name=name, url=url, timeout=timeout, code_of=code_of)
