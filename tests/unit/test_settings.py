"""Settings: three sources, every key explained, mistakes named with their mend."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import BaseModel

from config import ConfigProblem, Settings, check, load
from router.errors import ConfigError
from router.secrets import load_key, sip_credentials


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SWITCHBOARD_"):
            monkeypatch.delenv(name)


def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PUBLIC_URL": "https://calls.example.com/",
        "LIVEKIT__URL": "wss://x.livekit.cloud",
        "LIVEKIT__API_KEY": "key",
        "LIVEKIT__API_SECRET": "secret",
        "LIVEKIT__SIP_HOST": "x.sip.livekit.cloud",
        "PROVIDERS__TWILIO__ACCOUNT_SID": "AC" + "0" * 32,
        "PROVIDERS__TWILIO__AUTH_TOKENS": '["new", "old"]',
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
    assert [t.get_secret_value() for t in settings.providers.twilio.auth_tokens] == ["new", "old"]
    assert "new" not in repr(settings)


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
        ("LIVEKIT__WEBHOOK_KEYS", "not json", "JSON"),
    ],
)
def test_mistakes_are_named(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SWITCHBOARD_{name}", value)
    with pytest.raises(ConfigProblem, match=words.replace(".", r"\.")):
        load()


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
        ({"DISPATCH__DEADLINE": "10"}, "fit into providers.twilio.dial_timeout"),
        (
            {
                "PROVIDERS__TELNYX__PUBLIC_KEYS": "key",
                "PROVIDERS__TELNYX__API_KEY": "KEY",
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
        ({}, "providers.twilio.account_sid"),
        ({"TWILIO__AUTH_TOKENS": "token"}, "providers.twilio.account_sid"),
        ({"TWILIO__AUTH_TOKENS": "token", "VOCODE__SECRETS": "s"}, "providers.twilio.account_sid"),
        ({"TELNYX__API_KEY": "KEY"}, "providers.telnyx.public_keys"),
        ({"VOCODE__SECRETS": "secret"}, None),
        ({"VOCODE__ACTION_SECRETS": "secret"}, None),  # what it lacks, its folder says
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


def test_only_the_carriers_that_are_set_up_must_ring_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete(monkeypatch)
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TELNYX__DIAL_TIMEOUT", "5")
    check(load())
    for name in ("ACCOUNT_SID", "AUTH_TOKENS"):
        monkeypatch.delenv(f"SWITCHBOARD_PROVIDERS__TWILIO__{name}")
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__TWILIO__DIAL_TIMEOUT", "5")
    monkeypatch.setenv("SWITCHBOARD_PROVIDERS__VOCODE__SECRETS", "secret")
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
