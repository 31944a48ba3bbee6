"""Who asks, as far as the head of a request tells: the bearer token and the address."""

import hashlib
import ipaddress

from aiohttp import web

from router.errors import Unauthorized

_LONGEST = 512  # characters of a token; ours have some 60


def bearer(request: web.BaseRequest) -> str:
    """The token in `Authorization: Bearer …` (RFC 6750 §2.1).

    Raises:
        Unauthorized: there is none, or more than one.
    """
    given = request.headers.getall("Authorization", ())
    if not given:
        raise Unauthorized("a token is needed: Authorization: Bearer sb_…", code="token_missing")
    scheme, _, token = given[0].strip().partition(" ")
    token = token.strip()
    if len(given) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthorized("Authorization must be: Bearer sb_…", code="token_invalid")
    if len(token) > _LONGEST or not token.isascii() or not token.isprintable():
        raise Unauthorized("this is not a token of Switchboard", code="token_invalid")
    return token


def digest(token: str) -> bytes:
    """What a token is remembered by, in memory."""
    return hashlib.sha256(token.encode()).digest()


def peer(request: web.BaseRequest, *, behind_proxy: bool) -> str:
    """The client's address, of IPv6 its network: behind a proxy the one that the proxy added."""
    address = request.remote or ""
    if behind_proxy:
        address = ",".join(request.headers.getall("X-Forwarded-For", ())).rpartition(",")[2].strip()
        address = address or request.remote or ""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return request.remote or ""
    if found.version == 6:  # whoever has one address of a /64 has them all
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
