"""Whatever stands in a setting: it is refused under its path, or the node can be made of it.

The fields are found by walking the model, so a new setting is tried without being named here.
"""

import asyncio
import datetime as dt
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from livekit.api import AccessToken
from pydantic import BaseModel

from config import ConfigProblem, Settings, check, load
from router.clock import SystemClock
from router.errors import ConfigError
from router.eventlog.kafka_client import connection
from router.eventlog.open import open_log
from router.files import make_data_folder
from router.providers import context_of, open_carriers, served
from router.runtime import documents, sources
from router.secrets import load_key, sip_credentials
from router.storage.engine import open_database
from tests.support.settings import merged

SECRET: Final = "a-secret-of-thirty-two-characters"
SID: Final = "AC" + "a1" * 16
COMPLETE: Final[Mapping[str, Any]] = {
    "public_url": "https://calls.example.com",
    "secret_key": "ab" * 32,
    "livekit": {
        "url": "wss://x.livekit.cloud",
        "api_key": "APIx",
        "api_secret": SECRET,
        "sip_host": "x.sip.livekit.cloud",
    },
    "providers": {
        "twilio": {"account_sid": SID, "auth_tokens": [SECRET]},
        "telnyx": {
            "api_key": SECRET,
            "public_keys": ["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="],
        },
        "vocode": {"secrets": [SECRET]},
    },
}

TEXTS: Final = (
    *("", " ", "\0", "a\r\nb", "\x1b[31m", "\ud800", "\uffff", "é", "\u202e", "\u00a0" * 20),
    *(
        '"',
        "'",
        "<x>",
        "{",
        "[",
        "%s",
        "\\",
        "a?b",
        "~",
        "true",
        "nan",
        "inf",
        "1e308",
        "-1",
        "9" * 5000,
    ),
    *("x" * 20, "x" * 300, "x" * 70_000, "-----BEGIN PUBLIC KEY-----", "ssh-ed25519 AAAAAAAAAAAA"),
    *(
        "foo",
        "sip:h",
        "h;transport=tls",
        "h:99999",
        "a b",
        "a@b",
        "[::1",
        "::1",
        "1.2.3",
        "../../etc",
    ),
    *("https://h:port", "https://[::1", "https://h/'", "https://u:p@h", "//h", "/proc/x", "h,,"),
    *(
        "postgresql://",
        "postgresql://h:x/",
        "postgresql://h/n?port=x",
        "postgresql://u:@h/n",
        "sqlite://",
        "A" * 43 + "=",
    ),
)
OTHERS: Final[tuple[object, ...]] = (
    *(None, True, -1, 2**63, 2**1000, -0.0, 1e-308, 1e308, float("inf"), float("nan"), b"bytes"),
    *(
        dt.date(2026, 5, 28),
        [],
        {},
        [[]],
        [None],
        [""],
        [SECRET, " "],
        [SECRET, SECRET],
        ["x"] * 200,
    ),
    *(
        {"": ""},
        {"k": [""]},
        {SID: [""]},
        {SID: ""},
        {SID: {}},
        {"\0": SECRET},
        {1: 2},
        {"k": None},
    ),
)


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting and every table of settings."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*path, name))


_FILES: Final = ("data_dir", "database", "journal")
FIELDS: Final = list(leaves(Settings))


@pytest.fixture(autouse=True)
def _nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SWITCHBOARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path_factory.mktemp("settings"))


def with_field(path: tuple[str, ...], value: object) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    whole = path[-1] not in ("http", "livekit", "providers", "twilio", "telnyx", "vocode")
    return merged(COMPLETE, value) if whole else {**COMPLETE, **value}


def assert_named(key: str, error: Exception, value: object) -> None:
    """The refusal names a setting, and never the value."""
    assert tuple(key.split(".")) in FIELDS, error
    assert all(line.isprintable() for line in str(error).splitlines())
    if isinstance(value, str) and len(value.strip()) >= 20:
        assert value.strip() not in str(error)


def refused(path: tuple[str, ...], error: ConfigProblem, value: object) -> None:
    """Every line is about this field, or about what is in it."""
    dotted = ".".join(path)
    for line in str(error).splitlines():
        assert line.removeprefix(f"SWITCHBOARD_{dotted.upper()}: ").startswith(dotted), line
    assert_named(dotted, error, value)


async def compose(own: Settings, *, files: bool = True) -> None:
    """What a start does with its settings before it meets anybody; with or without its files."""
    check(own)
    if files:
        make_data_folder(own.data_dir)
    credentials = sip_credentials(load_key(own.secret_key.get_secret_value(), own.data_dir))
    context = context_of(own, credentials, SystemClock())
    assert len(sources(own, credentials, SystemClock())) == len(served(own))
    assert documents(own)
    assert connection(own.kafka)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_carriers(context))
        livekit = own.livekit
        if livekit.api_key and livekit.api_secret:
            AccessToken(livekit.api_key, livekit.api_secret.get_secret_value()).to_jwt()
        if files and not own.has_kafka:
            await stack.enter_async_context(open_log(own))
        if files:
            database = await stack.enter_async_context(open_database(own))
            engine = database._engine
            engine.dialect.create_connect_args(engine.url)


def is_inside(own: Settings) -> bool:
    """Whether its files are in the test's folder (or in /proc, where none can be made)."""
    here, database = Path.cwd(), Path(own.database_url.partition("///")[2])
    folders = {Path(os.path.normpath(here / path)) for path in (own.data_dir, database.parent)}
    return all(path.is_relative_to(here) or path.is_relative_to("/proc") for path in folders)


def tried(path: tuple[str, ...], value: object) -> None:
    try:
        own = load(overrides=with_field(path, value))
    except ConfigProblem as error:
        refused(path, error, value)
        return
    try:
        asyncio.run(compose(own, files=path[0] in _FILES and is_inside(own)))
    except ConfigError as error:
        assert_named(error.key, error, value)
    except ConfigProblem as error:  # one that does not fit to others is named, or they are
        for line in str(error).splitlines():
            assert_named(line.partition(":")[0], error, value)


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_hostile_value_is_refused_by_its_path_or_a_node_can_be_made_of_it(
    path: tuple[str, ...],
) -> None:
    for value in (*TEXTS, *OTHERS):
        tried(path, value)


@given(
    path=st.sampled_from(FIELDS),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=4,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_is_anything_else(path: tuple[str, ...], value: object) -> None:
    tried(path, value)


@given(path=st.sampled_from(FIELDS), value=st.text() | st.sampled_from(TEXTS), form=st.booleans())
@example(path=("http",), value="[" * 99_999, form=False)
@example(path=("livekit", "webhook_keys"), value="[" * 99_999, form=False)
@example(path=("livekit", "webhook_keys"), value='{"k": ""}', form=False)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_a_hostile_variable_is_refused_by_its_path_or_taken(
    path: tuple[str, ...], value: str, form: bool
) -> None:
    text = json.dumps([value]) if form else value
    name = "SWITCHBOARD_" + "__".join(path).upper()
    try:
        os.environ[name] = text
    except (ValueError, UnicodeEncodeError):  # no variable can hold it
        return
    try:
        load(overrides={"data_dir": "data"} if path != ("data_dir",) else None)
    except ConfigProblem as error:
        refused(path, error, text)
    finally:
        del os.environ[name]


def test_the_walk_finds_the_settings() -> None:
    """Without it nothing would be tried."""
    assert len(FIELDS) > 60
    assert ("providers", "twilio", "auth_tokens") in FIELDS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(compose(load(overrides={**COMPLETE, "data_dir": str(Path("whole").resolve())})))
