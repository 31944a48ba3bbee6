"""Calls of a carrier's REST API: bounded in time, and with errors that say what became of them.

| what happened                                 | error       |
|-----------------------------------------------|-------------|
| no connection, 429                            | `Transient` |
| time-out (408), connection lost, 5xx, no JSON | `Ambiguous` |
| any other status but 2xx and 404              | `Permanent` |

`Rest` tries nothing again: whether that is right depends on what was asked (`tried`). Redirects are
not followed: they would carry our credentials to wherever they point.
"""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from router.backoff import backoff, jitter
from router.clock import Clock
from router.errors import Ambiguous, EffectError, Permanent, Transient

_TIMED_OUT: Final = 408
_TOO_MANY: Final = 429
_MAX_BODY: Final = 8 * 1024 * 1024
_TRIES: Final = 3
_PATIENCE: Final = 5.0  # seconds; whoever asks for a longer pause is told no more now

P = ParamSpec("P")
T = TypeVar("T")


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


async def tried(clock: Clock, ask: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
    """What `ask` returns, asked again up to twice where that is safe, after a pause with jitter.

    What did not happen (Transient: no connection, 429) always is; what may have happened
    (Ambiguous) where it is `repeatable`: a question, or what is the same when done twice. A pause
    that the carrier asks for is kept, up to five seconds.

    Raises:
        EffectError: of the last try.
    """
    for attempt in range(1, _TRIES):
        try:
            return await ask()
        except Transient as error:
            pause = max(backoff(attempt), error.retry_after or 0.0)
            if pause > _PATIENCE:
                raise
        except Ambiguous:
            if not repeatable:
                raise
            pause = backoff(attempt)
        await clock.sleep(pause + jitter(backoff(attempt)))
    return await ask()


def legible(
    name: str,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Of a method that reads a carrier's answers: what can't be read is Ambiguous."""

    def decorated(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(method)
        async def reading(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await method(*args, **kwargs)
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                raise Ambiguous(f"{name} answered something that can't be read") from error

        return reading

    return decorated


def refusal(
    name: str, status: int, *, code: str = "", headers: Mapping[str, str], advice: str = ""
) -> EffectError:
    """What an answer of 400 or more means; `headers` are case-insensitive.

    The carrier's own words are not repeated: they may hold a phone number. Its code does not;
    `advice` says what the code asks for.
    """
    text = f"{name} answered {status}" + (f", code {code}" if code else "")
    text += f": {advice}" if advice else ""
    if status == _TOO_MANY:
        after = headers.get("Retry-After", "") or headers.get("x-ratelimit-reset", "")
        # Some send a date instead, or seconds since 1970.
        is_pause = after.isdecimal() and len(after) <= 5
        return Transient(text, retry_after=float(after) if is_pause else None)
    if status >= 500 or status == _TIMED_OUT:
        return Ambiguous(text)
    return Permanent(text, code=code)


async def body_of(answer: aiohttp.ClientResponse, name: str) -> bytes:
    """An answer's whole body. Raises Ambiguous where it is larger than any that is right."""
    body = bytearray()  # StreamReader.read(n) returns what has arrived, which may be less
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise Ambiguous(f"{name} answered more than {_MAX_BODY} bytes")
    return bytes(body)


@asynccontextmanager
async def bounded(where: str, timeout: float) -> AsyncIterator[None]:
    """One aiohttp request, in at most `timeout` seconds. Raises Transient, Ambiguous."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Transient(f"{where} can't be reached: {reason(error)}") from error
    except TimeoutError as error:
        raise Ambiguous(f"{where} did not answer within {timeout:g} s") from error
    except aiohttp.ClientError as error:
        raise Ambiguous(f"the connection to {where} broke: {reason(error)}") from error


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
        headers: Mapping[str, str],
    ) -> None:
        self._session = session
        self._headers = headers
        self._name = name  # for messages
        self._where = f"{name} at {urlsplit(url).netloc.rpartition('@')[2]}"
        self._url = url.rstrip("/")
        self._timeout = timeout  # seconds
        self._code_of = code_of

    def asking_as(self, headers: Mapping[str, str], *, path: str = "") -> "Rest":
        """The same API below `path`, asked as somebody else, who shares only its sockets."""
        return Rest(
            self._session,
            name=self._name,
            url=self._url + path,
            timeout=self._timeout,
            code_of=self._code_of,
            headers=headers,
        )

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
        async with (
            bounded(self._where, self._timeout),
            self._session.request(
                method, self._url + path, allow_redirects=False, headers=self._headers, **how
            ) as answer,
        ):
            return self._read(answer, await body_of(answer, self._name))

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
        raise refusal(self._name, answer.status, code=self._code_of(found), headers=answer.headers)


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
    cookies = aiohttp.DummyCookieJar()  # a cookie says who asks, too
    async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies) as session:
        yield Rest(session, name=name, url=url, timeout=timeout, code_of=code_of, headers=headers)
