"""Targets for what people write, in files and by hand: it is taken, or an error says why not."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from config import ConfigProblem, check, load
from router.clock import SystemClock
from router.errors import ConfigError
from router.events import phone
from router.ingress.routes import RouteFollower
from router.numbers.file import read_mapping
from router.providers import configured, context_of
from router.routing.table import Route, RouteTable
from router.routing.table import Target as Agent
from router.secrets import load_key, sip_credentials
from tests.fuzz.target import Target
from tests.fuzz.words import nasty
from tests.support.fake_log import FakeLog

_MAPPING: Final = b"""\
agents:
  - name: anna
    livekit_agent_name: anna-prod
    metadata: {greeting: Hello, since: 2026-05-28, ratio: 1.5, none: null, when: 12:30:45}
    status: deployed
numbers:
  - number: "+1 415 555 0100"
    provider: twilio
    agent: &a anna
    fallback: "+14155550199"
  - {number: "tel:+1-212-555-0123", provider: telnyx, agent: *a}
"""
_SETTINGS: Final = b"""\
public_url = "https://calls.example.com"
secret_key = "6b657920666f7220746865206578616d706c65732c2033322062797465732121"
roles = ["ingress"]
[livekit]
url = "wss://x.livekit.cloud"
api_key = "APIcase"
api_secret = "a-secret-of-thirty-two-characters"
sip_host = "x.sip.livekit.cloud"
webhook_keys = {APIother = "another-secret-of-the-project-0123456789"}
[kafka]
bootstrap_servers = "a:9092,b:9092"
[providers.twilio]
account_sid = "ACa1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
auth_tokens = ["6d61696e2d746f6b656e2d6f6e65", "746f6b656e2d746865206f74686572"]
[providers.twilio.accounts]
ACb2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2 = ["the-subaccounts-token"]
[providers.telnyx]
api_key = "KEY0123456789ABCDEF"
public_keys = ["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]
[providers.vocode]
secrets = ["a-secret-for-the-path-of-vocode"]
action_secrets = ["c2VjcmV0LW9mLWFuLWFjdGlvbg=="]
"""


def targets() -> Iterator[Target]:
    yield _of_a_file("mapping", _mapping, [_MAPPING])
    yield _of_a_file("settings", _settings, [_SETTINGS])
    whole = _routes_copy()
    spoilt = (whole.replace(b'"anna"', value) for value in nasty())
    yield _of_a_file("routes-copy", _copy, [whole, *spoilt])
    yield _numbers()


def _of_a_file(name: str, read: Callable[[Path], None], seeds: Sequence[bytes]) -> Target:
    """`read` gets the path of a file that holds the input."""

    def run(data: bytes) -> None:
        path = _folder() / name
        path.write_bytes(data)
        read(path)

    return Target(name, run, [*seeds, *nasty()])


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="switchboard-fuzz-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def _mapping(path: Path) -> None:
    with suppress(ConfigError):
        msgspec.json.encode(read_mapping(path))


def _settings(path: Path) -> None:
    """As far as a start reads them: the providers' keys too."""
    with suppress(ConfigProblem, ConfigError):
        settings = load(path)
        check(settings)
        key = load_key(settings.secret_key.get_secret_value(), _folder())
        context = context_of(settings, sip_credentials(key), SystemClock())
        for provider in configured(settings):
            provider.source(context)


def _copy(path: Path) -> None:
    follower = RouteFollower(RouteTable(), FakeLog(), SystemClock(), path)
    follower._load()
    msgspec.json.encode(list(follower.table))


def _routes_copy() -> bytes:
    agent = Agent(agent="anna", livekit_agent_name="anna-v2")
    route = Route(number="+14155550100", provider="twilio", rev=7, targets=(agent,))
    lines = ({"routes": [route]}, {"removed": {"+14155550101": 6}})
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _numbers() -> Target:
    """Phone numbers as people write them; what comes of one is a number that routes know."""

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        phone.mask(text)
        with suppress(ValueError):
            assert phone.is_e164(phone.normalise(text))

    written = (
        *("+1 (415) 555-0100", "+44 20 7946 0018 x12", "tel:+49-30-123456;ext=7", "+1800FLOWERS"),
        *("+49 110", "+49 123456789012345", "+1 555 0100", "sip:+14155550100@x", "+٤٩٣٠١٢٣٤٥٦"),
    )
    return Target("phone", run, [text.encode() for text in written])
