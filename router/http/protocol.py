"""HTTP as strangers may speak it here: what is refused, in which words, and when reading ends.

aiohttp's parser refuses most of what is malformed, but answers with the bytes that it stumbled
over. It also takes what this listener has no use for, and two programs could understand in two
ways: HTTP/0.9 and 2.0 in plain text, `Transfer-Encoding: gzip, chunked` (read as if it were
`chunked`), a transfer coding in HTTP/1.0, targets that are no path, hosts that are none. All of it
is 400 with one constant text, and the connection is closed (RFC 9112 §3, §6.1).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from typing_extensions import override

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MALFORMED: Final = "not understood: this is not a proper HTTP request"
TRY_AGAIN: Final = "can't take this now, please try again"

_SERVER: Final = "switchboard"  # no version: it would say which holes to try
_CONTINUES: Final = web.RequestKey("continues", bool)
_DROPPED_LIMIT: Final = 1_048_576  # bytes that are let come in after the answer

_VERSIONS: Final = (HttpVersion11, HttpVersion10)
# RFC 3986 §3.2.2, as far as `Host` may go: a name or an address, and a port.
_HOST: Final = re.compile(
    r"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.vV]+\])(?::[0-9]{0,5})?", re.ASCII
)


class Connection(web.RequestHandler):
    """A connection whose refusals repeat nothing, and that does not read what it has refused."""

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._refused: StreamReader | None = None  # its body is let come in, and not looked at
        self._expected = 0

    @override
    def data_received(self, data: bytes) -> None:
        if self._refused is None:
            super().data_received(data)
            return
        self._expected -= len(data)
        if self._expected <= 0:
            self._end()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._refused is not None:
            self._end()

    def refuse_body(self, request: web.BaseRequest) -> None:
        """Close when the answer is out: the rest of the body is let come in, and thrown away.

        Nothing of it is parsed. A close at once would reset the connection, and with it the answer
        on its way. It ends when the body does, when the sender goes, or by aiohttp's time for it.
        """
        self._expected = _DROPPED_LIMIT
        length = request.content_length
        if length is not None:
            self._expected = min(length - request.content.total_bytes, _DROPPED_LIMIT)
        self._refused = request.content
        self.close()

    def _end(self) -> None:
        if self._refused is not None and not self._refused.is_eof():
            self._refused.feed_eof()  # which is what aiohttp waits for before it closes

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused, or what failed unforeseen, in constant words."""
        super().handle_error(request, status, exc, message)  # logs it
        if status == 400:
            return refusal(400, MALFORMED)
        return refusal(503, TRY_AGAIN)


def refusal(status: int, text: str) -> web.Response:
    """An answer after which the connection is closed."""
    response = web.Response(status=status, text=text, headers={"Server": _SERVER})
    response.force_close()
    return response


def guard(server: web.Server) -> None:
    """Have the server's handler asked proper requests alone, and answer in words of ours alone."""
    make, handler = server.request_factory, cast("Handler", server.request_handler)

    def factory(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        if message.version not in _VERSIONS:  # answered in HTTP/1.1, and refused: it has no target
            message = message._replace(version=HttpVersion11, path="")
        return make(message, *rest)

    server.request_factory = factory
    server.request_handler = cast("Any", _guarded(handler))


def _guarded(handler: Handler) -> Handler:

    async def handle(request: web.Request) -> web.StreamResponse:
        if not is_proper(request):
            response: web.StreamResponse = refusal(400, MALFORMED)
        elif "Expect" in request.headers:
            response = await _expecting(request, handler)
        else:
            response = await _answer(request, handler)
        if not request.content.is_eof():
            response.force_close()
            connection = request.protocol
            if isinstance(connection, Connection):
                connection.refuse_body(request)
        response.headers["Server"] = _SERVER
        return response

    return handle


def is_proper(request: web.BaseRequest) -> bool:
    """Whether the head says what it says in one way only, beside what aiohttp's parser asks for."""
    headers, target = request.headers, request.raw_path
    coding = headers.get("Transfer-Encoding")
    return (
        (coding is None or (coding.lower() == "chunked" and request.version == HttpVersion11))
        and target.startswith("/")
        and "#" not in target
        and _HOST.fullmatch(headers.get("Host", "")) is not None
    )


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:  # no such path, or not by this method
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.Response(
            status=error.status, text=f"{error.status}: {error.reason}", headers=headers
        )


async def _expecting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """`100 Continue` is not said before somebody has looked at the head: see `continues`."""
    expected = request.headers["Expect"].lower() == "100-continue"
    if not expected and request.version == HttpVersion11:
        return refusal(417, "not understood: Expect is not 100-continue")
    headers = request.headers.copy()
    del headers["Expect"]
    other = request.clone(headers=headers)
    if expected and request.version == HttpVersion11:  # RFC 9110 §10.1.1
        other[_CONTINUES] = True
    return await _answer(other, handler)


async def continues(request: web.Request) -> None:
    """Tell a sender that waits for it that its body will be read."""
    if request.pop(_CONTINUES, False):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # what follows is the answer
