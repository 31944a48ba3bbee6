"""The Twirp front of the stand-in: authentication, decoding, faults, errors.

`POST /twirp/livekit.<Service>/<Method>`, protobuf or JSON by Content-Type. A token that is wrong is
refused in plain text before the route is looked at; one that lacks the grant answers the Twirp
error "permissions denied" (both observed on livekit-server 1.13.5).
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from livekit.api import TokenVerifier
from livekit.api.access_token import Claims

from router.sandbox.livekit.errors import HTTP_STATUS, TwirpError
from router.sandbox.livekit.faults import Faults

_MAX_BODY: Final = 10 * 1024 * 1024  # livekit-server refuses larger API bodies
_PROTOBUF: Final = "application/protobuf"
_JSON: Final = "application/json"

Request = TypeVar("Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request]):
    """One RPC: the request's class, who may call it, and what it does."""

    request: type[Request]
    allowed: Callable[[Claims, Request], bool]
    handle: Callable[[Request], Message | Awaitable[Message]]


Methods = Mapping[str, Method[Any]]
"""`Service/Method` → its RPC."""


def room_admin(claims: Claims, request: Any) -> bool:
    """Whether the token may manage the room that the request names."""
    video = claims.video
    return video is not None and bool(video.room_admin) and video.room == request.room


class TwirpFront:
    """Turns HTTP requests into calls of the stand-in's methods."""

    def __init__(self, api_key: str, api_secret: str, methods: Methods, faults: Faults) -> None:
        self._api_key = api_key
        self._verifier = TokenVerifier(api_key, api_secret)
        self._methods = methods
        self._faults = faults

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/twirp/livekit.{service}/{method}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._faults.refusing:
            return _drop(request)
        try:
            claims = self._claims(request)
        except ValueError as error:
            return web.Response(status=401, text=str(error))
        try:
            return await self._call(request, claims)
        except TwirpError as error:
            body = {"code": error.code, "msg": str(error)}
            return web.json_response(body, status=HTTP_STATUS[error.code])

    async def _call(self, request: web.Request, claims: Claims | None) -> web.StreamResponse:
        name = request.match_info["method"]
        method = self._route(request)
        message = _decode(method.request, request.content_type, await request.read())
        if claims is None or not method.allowed(claims, message):
            raise TwirpError("unauthenticated", "permissions denied")
        if code := self._faults.take_code(name):
            raise TwirpError(code, f"injected fault: {code}")
        answered = method.handle(message)
        answer = await answered if inspect.isawaitable(answered) else answered
        if self._faults.take_hang(name):
            await self._faults.closing.wait()
            return _drop(request)
        return _encode(answer, request.content_type)

    def _route(self, request: web.Request) -> Method[Any]:
        info = request.match_info
        method = self._methods.get(f"{info['service']}/{info['method']}")
        if request.method != "POST":
            message = f'unsupported method "{request.method}" (only POST is allowed)'
            raise TwirpError("bad_route", message)
        if method is None:
            raise TwirpError("bad_route", f'no handler for path "{request.path}"')
        if request.content_type not in (_PROTOBUF, _JSON):
            raise TwirpError("bad_route", f'unexpected Content-Type: "{request.content_type}"')
        return method

    def _claims(self, request: web.Request) -> Claims | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer":
            raise ValueError("invalid authorization header. Must start with Bearer ")
        try:
            return self._verifier.verify(token)
        except Exception as error:
            raise ValueError(f"invalid token: {type(error).__name__}") from error


def _drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)  # goes nowhere


def _decode(kind: type[Request], content_type: str, body: bytes) -> Request:
    message = kind()
    try:
        if content_type == _JSON:
            json_format.Parse(body, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except json_format.ParseError as error:
        raise TwirpError("malformed", "the json request could not be decoded") from error
    except DecodeError as error:
        raise TwirpError("malformed", "the protobuf request could not be decoded") from error
    return message


def _encode(message: Message, content_type: str) -> web.Response:
    if content_type == _PROTOBUF:
        return web.Response(body=message.SerializeToString(), content_type=_PROTOBUF)
    text = json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
    )
    return web.Response(text=text, content_type=_JSON)
