"""One signed request to the user's server, with Twilio's time-outs, retries and redirects.

Source: twilio.com/docs/usage/webhooks, reference of connection overrides, errors 11200 to 11217.
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode, urljoin

import aiohttp
from twilio.request_validator import RequestValidator
from yarl import URL

from router.sandbox.twilio.errors import (
    CONNECTION_FAILED,
    ERROR_RESPONSE,
    RETRIEVAL_FAILED,
    TOO_MANY_REDIRECTS,
    TwilioError,
)
from router.sandbox.twilio.overrides import Overrides, split

_MAX_BODY: Final = 64 * 1024 + 1
_MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Response:
    """What the server answered; a body is cut just above what TwiML may have."""

    status: int
    content_type: str
    body: bytes


class _Failed(Exception):
    """One try failed; `reason` as the retry policy names it."""

    def __init__(self, reason: Literal["ct", "rt", "4xx", "5xx"], error: TwilioError) -> None:
        super().__init__(str(error))
        self.reason = reason
        self.error = error


class WebhookSender:
    """Signs and sends as the account does; `async with` holds the connections."""

    def __init__(self, auth_token: str) -> None:
        self._validator = RequestValidator(auth_token)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, url: str, params: Mapping[str, str], *, method: str = "POST", token: str = ""
    ) -> Response:
        """Request `url`; `token` is the idempotency token, new for each webhook, not each try.

        Raises:
            TwilioError: it failed, after the retries that the URL's fragment asks for.
        """
        target, overrides = split(url)
        headers = {"I-Twilio-Idempotency-Token": token or str(uuid.uuid4())}
        for attempt in range(overrides.retries + 1):
            try:
                async with asyncio.timeout(overrides.total):
                    return await self._follow(target, params, method, headers, overrides)
            except TimeoutError as error:
                failed = _Failed("rt", TwilioError(RETRIEVAL_FAILED, "no answer in time"))
                cause: Exception = error
            except _Failed as error:
                failed = cause = error
            if attempt == overrides.retries or not overrides.retries_on(failed.reason):
                raise failed.error from cause
        raise TwilioError(RETRIEVAL_FAILED, "not tried")  # rc is at least 0

    async def _follow(
        self,
        url: str,
        params: Mapping[str, str],
        method: str,
        headers: Mapping[str, str],
        overrides: Overrides,
    ) -> Response:
        for _ in range(_MAX_REDIRECTS):
            answer, location = await self._request(url, params, method, headers, overrides)
            if answer.status in _REDIRECTS and location:
                url = urljoin(url, location)
                if answer.status not in (307, 308):
                    method, params = "GET", {}  # the parameters of a POST are lost: a trap
                continue
            if answer.status >= 400:
                error = TwilioError(ERROR_RESPONSE, f"the server answered {answer.status}")
                raise _Failed("4xx" if answer.status < 500 else "5xx", error)
            return answer
        raise TwilioError(TOO_MANY_REDIRECTS, f"more than {_MAX_REDIRECTS} redirects")

    async def _request(
        self,
        url: str,
        params: Mapping[str, str],
        method: str,
        headers: Mapping[str, str],
        overrides: Overrides,
    ) -> tuple[Response, str]:
        if method == "GET" and params:
            url += ("&" if "?" in url else "?") + urlencode(params)
        form = dict(params) if method == "POST" else {}
        signature = self._validator.compute_signature(url, form)
        timeout = aiohttp.ClientTimeout(
            sock_connect=overrides.connect, sock_read=overrides.read, total=None
        )
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": "TwilioProxy/1.1"})
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),  # as it was signed, byte for byte
                data=form if method == "POST" else None,
                headers={**headers, "X-Twilio-Signature": signature},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await _read(response)
                answer = Response(response.status, response.content_type, body)
                return answer, response.headers.get("Location", "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Failed("ct", TwilioError(CONNECTION_FAILED, "no connection")) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Failed("rt", TwilioError(RETRIEVAL_FAILED, "no whole answer")) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut at `_MAX_BODY`."""
    body = bytearray()  # StreamReader.read(n) returns what has arrived, which may be less
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= _MAX_BODY:
            break
    return bytes(body[:_MAX_BODY])
