"""Settings: three sources, every key explained, mistakes named with their mend."""

import re
import tomllib
from base64 import b64encode
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pytest
from nacl.signing import SigningKey
from pydantic import BaseModel, SecretStr

from config import ConfigProblem, Settings, UnreadableSettings, check, load
from config.check import ring_window
from router.errors import ConfigError
from router.provider import SipTarget
from router.providers.livekit.source import LiveKitSource
from router.providers.telnyx.action import Actions
from router.providers.telnyx.signature import read_keys
from router.providers.twilio.reply import Answers as TwilioAnswers
from router.providers.twilio.source import TwilioSource
from router.providers.vocode.source import VocodeSource
from router.secrets import load_key, sip_credentials


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SWITCHBOARD_"):
            monkeypatch.delenv(name)


NEW, OLD = "the-newest-auth-token-of-two", "the-former-auth-token-of-two"
SECRET = "a-secret-of-thirty-two-characters"
SID = "AC" + "0" * 32
PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # RFC 8032 §7.1, the first test's


def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PUBLIC_URL": "https://calls.example.com/",
        "LIVEKIT__URL": "wss://x.livekit.cloud",
        "LIVEKIT__API_KEY": "key",
        "LIVEKIT__API_SECRET": SECRET,
        "LIVEKIT__SIP_HOST": "x.sip.livekit.cloud",
        "PROVIDERS__TWILIO__ACCOUNT_SID": SID,
        "PROVIDERS__TWILIO__AUTH_TOKENS": f'["{NEW}", "{OLD}"]',
    }.items():
        monkeypatch.setenv(f"SWITCHBOARD_{name}", value)


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[http]\nport = 9000\nhost = '0.0.0.0'\n")
    monkeypatch.setenv("SWITCHBOARD_HTTP__PORT", "9001")
    settings = load(file)
    assert (settings.http.port, settings.http.host, settings.http.max_in_flight) == (
        9001,
        "0.0.0.0",
        1024,
    )
    monkeypatch.setenv("SWITCHBOARD_CONFIG", str(file))
    assert load().http.host == "0.0.0.0"
    assert load(overrides={"http": {"port": 1}}).http.port == 1


@pytest.mark.parametrize("content", [b"[http", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigProblem, match=r"s\.toml is not TOML"):
        load(file)


def test_a_complete_set_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    complete(monkeypatch)
    settings = load()
    check(settings)
    assert settings.public_url == "https://calls.example.com"
    assert [t.get_secret_value() for t in settings.providers.twilio.auth_tokens] == [NEW, OLD]
    assert NEW not in repr(settings)


def test_lists_may_be_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS", "a:9092, b:9092")
    monkeypatch.setenv("SWITCHBOARD_ROLES", '["ingress"]')
    settings = load()
    assert settings.kafka.bootstrap_servers == ("a:9092", "b:9092")
    assert settings.roles == ("ingress",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LIVEKIT__API_KEYS", "x", "livekit.api_keys: there is no such setting"),
        ("LIVEKITT__URL", "x", "SWITCHBOARD_LIVEKITT__URL: there is no such setting"),
        ("HTTP__PORT", "eighty", "http.port"),
        ("PUBLIC_URL", "calls.example.com", "public_url: must be an absolute URL"),
        ("PUBLIC_URL", "https://calls.example.com:99999", "public_url: Port out of range"),
        ("LIVEKIT__URL", "x.livekit.cloud", "livekit.url: must be an absolute URL"),
        ("PROVIDERS__TELNYX__API_URL", "api.telnyx.com/v2", "providers.telnyx.api_url: must be an"),
        ("PROVIDERS__TWILIO__API_URL", "", "providers.twilio.api_url"),
        ("PROVIDERS__TELNYX__API_URL", "", "providers.telnyx.api_url"),
        ("ROLES", "ingress,cook", "roles"),
        ("LIVEKIT__WEBHOOK_KEYS", "not json", "livekit.webhook_keys: is not JSON"),
        ("PROVIDERS__TWILIO__AUTH_TOKENS", '["', "providers.twilio.auth_tokens: is not JSON"),
        ("PROVIDERS__TWILIO__ACCOUNTS", "[" * 99999, "providers.twilio.accounts: is not JSON"),
        ("PROVIDERS__TWILIO", "{", "providers.twilio: is not a JSON table"),
        ("HTTP", "[1]", "http: is not a JSON table"),
        ("HTTP", '{"port": true}', "http.port: must be a number"),
        ("PROVIDERS__TWILIO__AUTH_TOKENS", "  ", "providers.twilio.auth_tokens[0]: is empty"),
        ("PROVIDERS__TWILIO__AUTH_TOKENS", f"{NEW}, ", "providers.twilio.auth_tokens[1]: is empty"),
        ("PROVIDERS__TWILIO__ACCOUNTS", f'{{"{SID}": " "}}', f"accounts.{SID}[0]: is empty"),
        ("PROVIDERS__VOCODE__SECRETS", ",", "providers.vocode.secrets[0]: is empty"),
        ("PUBLIC_URL", "https://calls.example.com/?", "public_url: must not have a query"),
        ("PUBLIC_URL", "https://calls.example.com#", "public_url: must not have a query"),
        ("HTTP__PORT__X", "1", "SWITCHBOARD_HTTP__PORT__X: http.port is no table"),
        ("DATA_DIR__X", "1", "data_dir is no table"),
    ],
)
def test_mistakes_are_named(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SWITCHBOARD_{name}", value)
    with pytest.raises(ConfigProblem, match=re.escape(words)):
        load()


@pytest.mark.parametrize("url", ["https://user:secret/x@h", "https://[secret", "https://h:secret"])
def test_what_is_wrong_with_a_url_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        load(overrides={"public_url": url})
    assert str(caught.value).startswith("public_url: ")
    assert "secret" not in str(caught.value)


def twilio(**keys: object) -> dict[str, object]:
    return {"providers": {"twilio": keys}}


NO_SECRETS = [
    "",
    " ",
    "\t",
    "\u00a0" * 20,
    "hunter2",
    "x" * 15,
    f" {NEW}",
    f"{NEW}\n ",
    "\n",
    "\0" * 32,
    "é" * 32,
    "ssh-ed25519 AAAAAAAAAAAAAAA",
    "-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", NO_SECRETS)
@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("providers.twilio.auth_tokens[1]", lambda s: twilio(auth_tokens=[NEW, s])),
        (f"providers.twilio.accounts.{SID}[0]", lambda s: twilio(accounts={SID: [s]})),
        ("providers.twilio.shared_keys.k", lambda s: twilio(shared_keys={"k": s})),
        ("livekit.webhook_keys.APIx", lambda s: {"livekit": {"webhook_keys": {"APIx": s}}}),
        ("livekit.api_secret", lambda s: {"livekit": {"api_secret": s}}),
        ("secret_key", lambda s: {"secret_key": s}),
        ("providers.telnyx.api_key", lambda s: {"providers": {"telnyx": {"api_key": s}}}),
        (
            "providers.telnyx.public_keys[0]",
            lambda s: {"providers": {"telnyx": {"public_keys": [s]}}},
        ),
        ("providers.vocode.secrets[0]", lambda s: {"providers": {"vocode": {"secrets": [s]}}}),
        (
            "providers.vocode.action_secrets[0]",
            lambda s: {"providers": {"vocode": {"action_secrets": [s]}}},
        ),
    ],
)
def test_a_secret_that_is_none_is_refused_by_its_path(
    path: str, around: Callable[[str], dict[str, object]], secret: str
) -> None:
    """With an empty key anybody can sign. Alone what may be left out is left out by ""."""
    if not secret and path in ("livekit.api_secret", "secret_key", "providers.telnyx.api_key"):
        load(overrides=around(secret))
        return
    with pytest.raises(ConfigProblem) as caught:
        load(overrides=around(secret))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert not secret.strip("\0 \n\t\u00a0") or secret.strip() not in str(caught.value)


def test_a_secret_that_was_read_from_a_file_may_end_with_its_line() -> None:
    settings = load(overrides=twilio(auth_tokens=[f"{NEW}\r\n"]))
    assert [token.get_secret_value() for token in settings.providers.twilio.auth_tokens] == [NEW]


def test_a_secret_in_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    complete(monkeypatch)
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS", f'["{NEW}", ""]')
    with pytest.raises(ConfigProblem, match=r"providers\.twilio\.auth_tokens\[1\]: is empty"):
        load()


@pytest.mark.parametrize(
    "y",
    [
        0,
        1,
        2**255 - 20,
        2**255 - 19,
        2,
        2707385501144840649318225287225658788936804267575313519463743609750303021,
    ],
)
@pytest.mark.parametrize("sign", [0, 1])
def test_a_public_key_that_fits_every_signature_is_refused(y: int, sign: int) -> None:
    """Points of a small order, another writing of one, and what is no point at all."""
    key = b64encode((y | sign << 255).to_bytes(32, "little")).decode()
    with pytest.raises(ConfigProblem, match=r"providers\.telnyx\.public_keys\[0\]: is not an Ed2"):
        load(overrides={"providers": {"telnyx": {"public_keys": [key]}}})


def test_real_public_keys_are_taken() -> None:
    keys = [b64encode(bytes(SigningKey(bytes([n] * 32)).verify_key)).decode() for n in range(40)]
    settings = load(overrides={"providers": {"telnyx": {"public_keys": keys}}})
    assert settings.providers.telnyx.public_keys == tuple(keys)


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("dispatch.lease", [1, 15.0], ["inf", float("inf"), float("nan"), 1e308, 0, -1, True, "x"]),
        ("http.port", [0, 65535, "80"], [-1, 65536, 80.5, True, "", "9" * 5000]),
        (
            "providers.twilio.account_sid",
            ["", SID],
            ["foo", "AC", SID.lower(), SID + "0", "AC" + "g" * 32, SID + "\n", "AC" + "A" * 32],
        ),
        ("providers.twilio.accounts", [{SID: [NEW]}, {SID: []}], [{"foo": [NEW]}, {"": [NEW]}]),
        ("providers.twilio.shared_keys", [{"a.b-c": NEW}], [{"": NEW}, {"a b": NEW}, {"é": NEW}]),
        ("livekit.webhook_keys", [{"APIx": SECRET}], [{"": SECRET}, {"a b": SECRET}]),
        (
            "livekit.sip_host",
            ["", "h", "x.sip.livekit.cloud", "10.0.0.1:5060", "[::1]", "[2001:db8::1]:5061"],
            [
                *(
                    "a b",
                    "a\r\nb",
                    "h;transport=udp",
                    "h:99999",
                    "h:0",
                    "h:",
                    "sip:h",
                    "a@b",
                    "::1",
                ),
                *("h?x", "h/x", 'h"', "<h>", "1.2.3", "1.2.3.256", "-h", "h..x", "x" * 64, "é.fr"),
                ".".join(["x" * 49] * 4) + ".xxx",
            ],
        ),
        (
            "public_url",
            ["", "https://h", "https://h:8443/a/b-c", "https://user:pass@h", "http://[::1]:80"],
            [
                *(
                    'https://h/"x',
                    "https://h/'x",
                    "https://h/a b",
                    "https://h/../x",
                    "https://h//x",
                ),
                *("https://h:99999", "https://h:0", "https://", "ftp://h", "//h", "https://h/?q"),
                *("https://h/#f", "https://h\r\n/", "https://h<x>", "https://é.fr", "https://[::1"),
                *("https://h/%zz", "https://u'@h", " https://h", "https://h/" + "x" * 600),
            ],
        ),
        ("livekit.url", ["wss://h/x", ""], ["wss://u:p@h", "h", "wss://h:port"]),
        ("http.host", ["127.0.0.1", "::", "::1", "my-host"], ["", "[::1]", "a b", "h:80", "0"]),
        (
            "kafka.bootstrap_servers",
            [[], "a:1", ["k-1.x:9092", "[::1]:9092"]],
            ["a", "a:0", "a:99999", ["a:1", ""], ["a:1", "a:1"], "PLAINTEXT://a:1", ["a b:1"], 5],
        ),
        (
            "database.url",
            [
                *("", "sqlite+aiosqlite:////tmp/x.db", "postgresql+psycopg://u:p%20w@h:5432/n"),
                *("postgresql://h/n", "postgresql+psycopg:///n?host=/run/postgresql"),
                "postgresql+psycopg://u:a#b/c@h/n?sslmode=require",
            ],
            [
                *("mysql://h/n", "h", "postgresql+psycopg://u:@h/n", "postgresql://u:%20@h/n"),
                *("postgresql://h:99999/n", "postgresql://h:x/n", "postgresql://a b/n"),
                *(
                    "postgresql://h/n?frobnicate=1",
                    "postgresql://h/n?port=x",
                    "postgresql:///n?host=a,b",
                    "sqlite://",
                    "sqlite:///:memory:",
                    "sqlite:///\0",
                ),
            ],
        ),
        (
            "providers.twilio.voice_language",
            ["en", "en-US", "es-419", "zh-Hant-TW", "cmn-CN", "ca-ES-valencia"],
            ["", "english", "en_US", "en-", "e", "en-US\n", 'en"', "en US"],
        ),
        (
            "providers.telnyx.apology",
            ["Sorry.", "Désolé & <pardon>", "می‌خواهم"],
            ["", "  ", "a\nb", "\0", "\x1b[0m", "\ud800", "\uffff", "x" * 1001],
        ),
        ("data_dir", ["var/x", "/x y"], ["", " ", "a\0b", "a\nb", "a?b", "~/x", "x" * 201, 5]),
        ("kafka.ssl_cafile", ["", "/etc/ca.pem"], ["a\0b", "x" * 2000]),
        ("kafka.sasl_password", ["", "secret", "pä sswörd"], [" ", "short", "secret\n\n"]),
        (
            "roles",
            [["ingress"], "calls,relay"],
            [["ingress", "ingress"], ["cook"], "ingress, cook"],
        ),
        ("providers.twilio", [], [5, "x", None, []]),
        ("secret_key", ["", "ab" * 32], ["ab" * 31, "zz" * 32, "ab" * 33]),
    ],
)
def test_forms_and_bounds(path: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        load(overrides=nested(path, value))
    for value in bad:
        with pytest.raises(ConfigProblem) as caught:
            load(overrides=nested(path, value))
        for line in str(caught.value).splitlines():
            assert line.startswith(path), line


def nested(path: str, value: object) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return cast("dict[str, Any]", value)


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[http]\nport = -1\n[dispatch]\nlease = inf\nlaese = 1\n")
    monkeypatch.setenv("SWITCHBOARD_HTP__PORT", "1")
    monkeypatch.setenv("SWITCHBOARD_LIVEKIT", "{")
    with pytest.raises(ConfigProblem) as caught:
        load(file)
    found = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert found == [
        "SWITCHBOARD_HTP__PORT",
        "livekit",
        "http.port",
        "dispatch.lease",
        "dispatch.laese",
    ]


@pytest.mark.parametrize("content", [b"a = " + b"9" * 5000, b"a = " + b"[" * 99999, b"\xff"])
def test_a_file_that_can_not_be_read_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(content)
    with pytest.raises(UnreadableSettings, match=r"s\.toml"):
        load(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PUBLIC_URL": ""}, "public_url: is missing"),
        ({"PUBLIC_URL": "http://calls.example.com"}, "public_url: must be https"),
        ({"PROVIDERS__TWILIO__AUTH_TOKENS": "[]"}, "auth_tokens: is missing"),
        ({"LIVEKIT__SIP_HOST": "sip:x"}, "without sip:"),
        ({"ROLES": "ingress"}, "set kafka"),
        ({"ROLES": "ingress,dispatch", "KAFKA__BOOTSTRAP_SERVERS": "a:1"}, "PostgreSQL"),
        ({"DATABASE__URL": "postgresql+psycopg://h/db"}, "secret_key: must be set"),
        ({"ROLES": "ingress", "KAFKA__BOOTSTRAP_SERVERS": "a:1"}, "secret_key: must be set"),
        ({"DATABASE__URL": "mysql://h/db"}, "database.url"),
        ({"DURABILITY": "replicated"}, "durability"),
        (
            {"KAFKA__BOOTSTRAP_SERVERS": "a:1", "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
            "kafka.sasl_password: is missing",
        ),
        (
            {
                "KAFKA__BOOTSTRAP_SERVERS": "a:1",
                "KAFKA__SECURITY_PROTOCOL": "SSL",
                "KAFKA__SSL_CAFILE": "/no/such/ca.pem",
            },
            "kafka.ssl_cafile: can't be used: No such file",
        ),
        (
            {
                "KAFKA__BOOTSTRAP_SERVERS": "a:1",
                "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA__SSL_CAFILE": __file__,
            },
            "kafka.ssl_cafile: can't be used: holds no PEM",
        ),
        (
            {"KAFKA__BOOTSTRAP_SERVERS": "a:1", "KAFKA__ACK_DEADLINE": "4.5"},
            "kafka.ack_deadline: must be under http.request_timeout",
        ),
        (
            {"DISPATCH__RING_WINDOW": "60"},
            "dispatch.ring_window: is longer than providers.twilio.dial_timeout",
        ),
        (
            {"DATABASE__URL": "postgresql+psycopg://h/db", "DATABASE__POOL_SIZE": "4"},
            "256 calls at once would wait too long for one of 4 connections; at most 128",
        ),
        (
            {"DATABASE__URL": "postgresql+psycopg://h/db", "DISPATCH__CONCURRENCY": "257"},
            "raise database.pool_size, or lower this",
        ),
        ({"DISPATCH__DEADLINE": "10"}, "fit into providers.twilio.dial_timeout"),
        (
            {
                "PROVIDERS__TELNYX__PUBLIC_KEYS": PUBLIC_KEY,
                "PROVIDERS__TELNYX__API_KEY": "KEY" + SECRET,
                "PROVIDERS__TELNYX__DIAL_TIMEOUT": "8",
            },
            "fit into providers.telnyx.dial_timeout",
        ),
    ],
)
def test_what_would_lose_calls_is_refused(
    changes: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(monkeypatch)
    for name, value in changes.items():
        monkeypatch.setenv(f"SWITCHBOARD_{name}", value)
    with pytest.raises(ConfigProblem, match=words.replace(".", r"\.")):
        check(load())


@pytest.mark.parametrize(
    ("begun", "missing"),
    [
        ({}, None),  # accounts may bring theirs
        ({"TWILIO__AUTH_TOKENS": NEW}, "providers.twilio.account_sid"),
        ({"TWILIO__AUTH_TOKENS": NEW, "VOCODE__SECRETS": SECRET}, "providers.twilio.account_sid"),
        ({"TELNYX__API_KEY": "KEY" + SECRET}, "providers.telnyx.public_keys"),
        ({"VOCODE__SECRETS": SECRET}, None),
        (
            {"VOCODE__ACTION_SECRETS": "c2VjcmV0LW9mLWFuLWFjdGlvbg=="},
            None,
        ),  # what it lacks, its folder says
    ],
)
def test_a_carrier_that_is_begun_must_be_finished_and_one_is_enough(
    begun: dict[str, str], missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(monkeypatch)
    for name in ("ACCOUNT_SID", "AUTH_TOKENS"):
        monkeypatch.delenv(f"SWITCHBOARD_PROVIDERS__TWILIO__{name}")
    for name, value in begun.items():
        monkeypatch.setenv(f"SWITCHBOARD_PROVIDERS__{name}", value)
    if missing is None:
        check(load())
        return
    with pytest.raises(ConfigProblem, match=rf"{missing}: is missing"):
        check(load())


def test_without_tenants_there_must_be_a_carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    complete(monkeypatch)
    for name in ("ACCOUNT_SID", "AUTH_TOKENS"):
        monkeypatch.delenv(f"SWITCHBOARD_PROVIDERS__TWILIO__{name}")
    monkeypatch.setenv("SWITCHBOARD_ROLES", "ingress,dispatch,calls,relay")
    with pytest.raises(ConfigProblem, match=r"providers\.twilio\.account_sid: is missing"):
        check(load())
    monkeypatch.setenv("SWITCHBOARD_SECRET_KEY", "0f" * 32)
    monkeypatch.setenv("SWITCHBOARD_DATABASE__URL", "postgresql://localhost/switchboard")
    check(load())  # an API beside it may have some


def test_only_the_carriers_that_are_set_up_must_ring_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete(monkeypatch)
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TELNYX__DIAL_TIMEOUT", "5")
    check(load())
    for name in ("ACCOUNT_SID", "AUTH_TOKENS"):
        monkeypatch.delenv(f"SWITCHBOARD_PROVIDERS__TWILIO__{name}")
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TWILIO__DIAL_TIMEOUT", "5")
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__VOCODE__SECRETS", SECRET)
    check(load())


def test_defaults_and_model_have_the_same_keys_and_every_one_is_explained() -> None:
    text = (files("config") / "defaults.toml").read_text()
    assert _keys(tomllib.loads(text)) == _fields(Settings)
    lines = text.splitlines()
    blocks = "\n".join(lines).split("\n\n")
    for block in blocks:
        keys = [line for line in block.splitlines() if line and line[0] not in "#["]
        assert not keys or "#" in block, f"nothing is said about {keys}"


def _keys(table: dict[str, object], prefix: str = "") -> set[str]:
    found = set()
    for name, value in table.items():
        is_table = isinstance(value, dict) and value
        found |= _keys(value, f"{prefix}{name}.") if is_table else {prefix + name}  # type: ignore[arg-type]
    return found


def _fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= _fields(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = load_key("", folder)
    assert load_key("", folder) == key
    assert (folder / "secret.key").stat().st_mode & 0o777 == 0o600
    assert sip_credentials(key) == sip_credentials(key)
    assert sip_credentials(key).password not in repr(sip_credentials(key))
    assert load_key(key.hex(), tmp_path / "other") == key


@pytest.mark.parametrize("text", ["short", "zz" * 32, "ab" * 31])
def test_a_secret_key_that_is_none_is_refused_without_repeating_it(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="32 bytes") as caught:
        load_key(text, tmp_path)
    assert text not in str(caught.value)


@pytest.mark.parametrize("secret", ["", " ", "\n\t"])
def test_no_verifier_is_made_of_an_empty_key(secret: str) -> None:
    """Whoever made the settings, and however: the key's user looks once more."""
    empty, name = SecretStr(secret), "x" * 32
    settings = load().providers
    target = SipTarget("h", "tcp", "u", "p")
    answers = TwilioAnswers(
        public_url="https://h", target=target, dial_timeout=20, apology="a", language="en"
    )
    for changes in (
        {"auth_tokens": (SecretStr(NEW), empty)},
        {"accounts": {"AC" + "1" * 32: (empty,)}},
        {"shared_keys": {"k": empty}},
    ):
        twilio = settings.twilio.model_copy(update={"account_sid": SID, **changes})
        with pytest.raises(ConfigError, match="empty or blank"):
            TwilioSource(twilio, public_url="https://h", answers=answers)
    with pytest.raises(ConfigError, match="empty or blank"):
        VocodeSource([name, secret], [])
    with pytest.raises(ConfigError, match="empty or blank"):
        VocodeSource([name], [b"key", secret.encode()])
    with pytest.raises(ConfigError, match="empty or blank"):
        LiveKitSource({"APIx": SECRET, "APIy": secret})
    with pytest.raises(ConfigError, match="empty or blank"):
        Actions(secret)
    with pytest.raises(ConfigError, match="a key is not an Ed25519 public key"):
        read_keys([PUBLIC_KEY, b64encode(bytes(32)).decode()])


def test_nothing_is_begun_after_the_shortest_dial_time_out_of_the_carriers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete(monkeypatch)
    assert ring_window(load()) == 20.0
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TWILIO__DIAL_TIMEOUT", "45")
    assert ring_window(load()) == 45.0
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TWILIO__DIAL_TIMEOUT", "300")
    assert ring_window(load()) == 60.0
    monkeypatch.setenv("SWITCHBOARD_DISPATCH__RING_WINDOW", "30")
    check(load())
    assert ring_window(load()) == 30.0
