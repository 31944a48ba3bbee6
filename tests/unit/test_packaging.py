"""The image and the compose file, as far as they can be checked without a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from config import check, load
from router.numbers.file import read_mapping

ROOT: Final = Path(__file__).parents[2]
_VARIABLE: Final = re.compile(r"\$\{(?P<name>\w+)(?::\?(?P<why>[^}]+))?\}")

VALUES: Final = {
    "SWITCHBOARD_PUBLIC_URL": "https://calls.example.com",
    "SWITCHBOARD_SECRET_KEY": "ab" * 32,
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKENS": "the-new-auth-token,the-old-auth-token",
    "LIVEKIT_API_KEY": "0123456789abcdef",
    "LIVEKIT_API_SECRET": "c" * 64,
    "PUBLIC_IP": "203.0.113.7",
    "SIP_HOST": "sip.example.com",
    "POSTGRES_PASSWORD": "d" * 48,
    "REDIS_PASSWORD": "e" * 48,
}


def filled(value: Any) -> Any:
    """The compose file's value with `VALUES` put in, as compose does it."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: VALUES[found["name"]], value)
    if isinstance(value, Mapping):
        return {key: filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    return value


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = filled(yaml.safe_load(text)["services"])
    return found


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    joined = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [
        (word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)
    ]


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SWITCHBOARD_"):
            monkeypatch.delenv(name)


class TestCompose:
    def test_the_services(self, services: dict[str, dict[str, Any]]) -> None:
        assert set(services) == {
            "switchboard",
            "kafka",
            "postgres",
            "redis",
            "livekit",
            "livekit-sip",
        }

    def test_every_image_is_pinned_to_a_version(self, services: dict[str, dict[str, Any]]) -> None:
        for name, service in services.items():
            _, _, tag = service["image"].rpartition(":")
            assert re.match(r"v?\d+\.\d+", tag), f"{name}: {service['image']}"

    def test_every_service_says_whether_it_is_well_and_comes_back(
        self, services: dict[str, dict[str, Any]]
    ) -> None:
        for name, service in services.items():
            assert service["restart"] == "unless-stopped", name
            kind, *command = service["healthcheck"]["test"]
            assert kind == "CMD", f"{name}: no shell"
            assert command, name

    def test_nobody_waits_for_less_than_health(self, services: dict[str, dict[str, Any]]) -> None:
        waits = [
            (name, other, how["condition"])
            for name, service in services.items()
            for other, how in service.get("depends_on", {}).items()
        ]
        assert waits
        for name, other, condition in waits:
            assert other in services, name
            assert condition == "service_healthy", (name, other)

    def test_nobody_is_privileged(self, services: dict[str, dict[str, Any]]) -> None:
        for name, service in services.items():
            assert not service.get("privileged"), name
            assert "cap_add" not in service, name
            assert "no-new-privileges:true" in service["security_opt"], name
            for volume in service.get("volumes", []):
                assert not volume.startswith(("/", ".")), f"{name} has a folder of the host"

    def test_switchboard_runs_without_privileges(
        self, services: dict[str, dict[str, Any]], image: list[tuple[str, str]]
    ) -> None:
        switchboard = services["switchboard"]
        assert switchboard["cap_drop"] == ["ALL"]
        assert switchboard["read_only"] is True
        assert "user" not in switchboard, "the image's own"
        assert [rest for word, rest in image if word == "USER"][-1] == "10001:10001"

    def test_what_must_survive_is_on_a_named_volume(
        self, text: str, services: dict[str, dict[str, Any]]
    ) -> None:
        places = {
            "switchboard": "/data",
            "kafka": services["kafka"]["environment"]["KAFKA_LOG_DIRS"],
            "postgres": "/var/lib/postgresql/data",
            "redis": "/data",
        }
        volumes = yaml.safe_load(text)["volumes"]
        for name, place in places.items():
            mounts = dict(volume.split(":")[::-1] for volume in services[name]["volumes"])
            assert mounts[place] in volumes, name
        assert "--appendonly" in services["redis"]["command"]

    def test_only_media_is_open_to_the_network(self, services: dict[str, dict[str, Any]]) -> None:
        on_the_host = {name for name, service in services.items() if "network_mode" in service}
        assert on_the_host == {"livekit", "livekit-sip"}
        for name, service in services.items():
            for port in service.get("ports", []):
                assert port.startswith("127.0.0.1:"), f"{name} {port}"

    def test_nothing_is_asked_for_that_has_no_reason_or_no_example(self, text: str) -> None:
        example = (ROOT / "config/examples/compose.env").read_text()
        asked = {found["name"]: found["why"] for found in _VARIABLE.finditer(text)}
        assert text.count("${") == len(list(_VARIABLE.finditer(text)))
        assert asked.keys() == VALUES.keys()
        assert all(asked.values()), "each must stop the start when it is missing"
        assert re.findall(r"^(\w+)=(.*)$", example, re.M) == [
            (name, "") for name in _order(example)
        ]
        assert set(_order(example)) == asked.keys()

    def test_no_secret_is_written_down(self, text: str) -> None:
        for line in text.splitlines():
            name, _, value = line.strip().partition(": ")
            if re.search(r"PASSWORD|SECRET|TOKEN|REDISCLI_AUTH", name):
                assert value.startswith("${"), line


def _order(example: str) -> list[str]:
    return re.findall(r"^(\w+)=", example, re.M)


class TestSwitchboardsEnvironment:
    def test_it_is_settings_that_start(
        self, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in services["switchboard"]["environment"].items():
            monkeypatch.setenv(name, value)
        settings = load()
        check(settings)
        assert settings.replicated
        assert [token.get_secret_value() for token in settings.providers.twilio.auth_tokens] == [
            "the-new-auth-token",
            "the-old-auth-token",
        ]

    def test_it_stops_no_sooner_than_it_can(self, services: dict[str, dict[str, Any]]) -> None:
        grace = load().http.shutdown_grace
        # Requests, then handlers, then relay (8 s) and journal (10 s).
        assert float(services["switchboard"]["stop_grace_period"].rstrip("s")) >= 2 * grace + 18

    def test_it_finds_the_others(self, services: dict[str, dict[str, Any]]) -> None:
        environment = services["switchboard"]["environment"]
        kafka = services["kafka"]["environment"]
        bootstrap = environment["SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS"]
        assert kafka["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{bootstrap}"
        assert services["kafka"]["hostname"] == bootstrap.partition(":")[0]
        assert "@postgres/switchboard" in environment["SWITCHBOARD_DATABASE__URL"]
        assert services["postgres"]["environment"]["POSTGRES_DB"] == "switchboard"
        livekit = yaml.safe_load(services["livekit"]["environment"]["LIVEKIT_CONFIG"])
        assert environment["SWITCHBOARD_LIVEKIT__URL"].endswith(f":{livekit['port']}")
        assert "host.docker.internal:host-gateway" in services["switchboard"]["extra_hosts"]

    def test_kafka_agrees_with_itself(self, services: dict[str, dict[str, Any]]) -> None:
        kafka = services["kafka"]["environment"]
        listeners = _listeners(kafka["KAFKA_LISTENERS"])
        protocols = dict(
            pair.split(":") for pair in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
        )
        advertised = _listeners(kafka["KAFKA_ADVERTISED_LISTENERS"])
        assert listeners.keys() == protocols.keys()
        assert advertised.keys() == {kafka["KAFKA_INTER_BROKER_LISTENER_NAME"]}
        for name, (host, port) in advertised.items():
            assert (host, port) == (services["kafka"]["hostname"], listeners[name][1])
        voter, _, place = kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
        controller = listeners[kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]]
        assert voter == kafka["KAFKA_NODE_ID"]
        assert place == f"{services['kafka']['hostname']}:{controller[1]}"
        assert kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"

    def test_livekit_and_its_bridge_agree_with_it(
        self, services: dict[str, dict[str, Any]]
    ) -> None:
        environment = services["switchboard"]["environment"]
        key = environment["SWITCHBOARD_LIVEKIT__API_KEY"]
        secret = environment["SWITCHBOARD_LIVEKIT__API_SECRET"]
        livekit = yaml.safe_load(services["livekit"]["environment"]["LIVEKIT_CONFIG"])
        sip = yaml.safe_load(services["livekit-sip"]["environment"]["SIP_CONFIG_BODY"])
        assert livekit["keys"] == {key: secret}
        assert (sip["api_key"], sip["api_secret"]) == (key, secret)
        assert sip["ws_url"].endswith(f":{livekit['port']}")
        assert sip["redis"] == livekit["redis"]
        assert livekit["redis"]["password"] in services["redis"]["command"]
        assert livekit["rtc"]["node_ip"] == sip["nat_1_to_1_ip"] == VALUES["PUBLIC_IP"]
        assert livekit["webhook"]["api_key"] == key
        address = services["switchboard"]["ports"][0].rpartition(":")[0]
        assert livekit["webhook"]["urls"] == [f"http://{address}/webhooks/livekit"]


def _listeners(text: str) -> dict[str, tuple[str, str]]:
    found = re.findall(r"(\w+)://([\w.-]*):(\d+)", text)
    assert found, text
    return {name: (host, port) for name, host, port in found}


class TestImage:
    def test_one_pinned_base_for_both_stages(self, image: list[tuple[str, str]]) -> None:
        bases = [rest.partition(" AS ")[0] for word, rest in image if word == "FROM"]
        assert len(bases) == 2
        assert len(set(bases)) == 1
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])

    def test_the_image_installs_only_what_the_lock_pins(self, image: list[tuple[str, str]]) -> None:
        runs = [json.loads(rest) for word, rest in image if word == "RUN" and "pip" in rest]
        lock, project, check = [words[1:] for words in runs]
        assert {"--require-hashes", "--no-deps", "--only-binary"} < set(lock)
        assert lock[-2:] == ["-r", "requirements.lock"]
        assert {"--no-deps", "--no-build-isolation"} < set(project)
        assert check == ["check"]

    def test_no_shell(self, image: list[tuple[str, str]]) -> None:
        for word, rest in image:
            if word in ("RUN", "CMD", "ENTRYPOINT"):
                assert isinstance(json.loads(rest), list), rest
            if word == "HEALTHCHECK":
                assert isinstance(json.loads(rest.partition("CMD ")[2]), list), rest
        words = [word for word, _ in image]
        assert words.count("HEALTHCHECK") == words.count("STOPSIGNAL") == 1

    def test_its_environment_is_settings(
        self, image: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pairs = " ".join(rest for word, rest in image if word == "ENV").split()
        for pair in pairs:
            name, _, value = pair.partition("=")
            if name.startswith("SWITCHBOARD_"):
                monkeypatch.setenv(name, value)
        settings = load()
        assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8080)
        volumes = [json.loads(rest) for word, rest in image if word == "VOLUME"]
        assert volumes == [[str(settings.data_dir)]]

    def test_what_it_copies_is_there_and_makes_the_whole_program(
        self, image: list[tuple[str, str]], tmp_path: Path
    ) -> None:
        folder = tmp_path / "context"
        for source in _copied(image):
            _copy(source, folder)
        options = ("-q", "--no-deps", "--no-build-isolation", "--no-index")
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", *options, "-w", str(tmp_path), str(folder)],
            check=True,
            timeout=100,
            capture_output=True,
        )
        [wheel] = tmp_path.glob("*.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
        ours = [
            path
            for package in ("config", "router", "consumers")
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".toml", ".yaml", ".typed")
        ]
        assert len(ours) > 100
        assert {str(path.relative_to(ROOT)) for path in ours} <= names
        assert not [name for name in names if name.startswith("tests")]


def _copied(image: list[tuple[str, str]]) -> Iterator[str]:
    for word, rest in image:
        if word == "COPY" and not rest.startswith("--from"):
            yield from rest.split()[:-1]


def _copy(source: str, folder: Path) -> None:
    """Copy what .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "nothing is in the context that is not named"
    assert f"!{source}" in rules, f"{source} is not in the context"
    left_out = [rule.strip("/").removeprefix("**/") for rule in rules[1:] if rule[0] != "!"]
    path = ROOT / source
    folder.mkdir(exist_ok=True)
    if path.is_file():
        shutil.copy(path, folder)
        return

    def ignored(_folder: str, names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatch(name, rule) for rule in left_out)]

    shutil.copytree(path, folder / path.name, ignore=ignored)


class TestExamples:
    @pytest.mark.parametrize("name", ["node.toml", "cluster.toml"])
    def test_settings_start_with_the_secrets_that_they_name(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = ROOT / "config/examples" / name
        values = {
            "SWITCHBOARD_SECRET_KEY": "ab" * 32,
            "SWITCHBOARD_DATABASE__URL": "postgresql+psycopg://switchboard:secret@db/switchboard",
            "SWITCHBOARD_KAFKA__SASL_PASSWORD": "secret",
            "SWITCHBOARD_LIVEKIT__API_KEY": "key",
            "SWITCHBOARD_LIVEKIT__API_SECRET": "c" * 64,
            "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": "0" * 32,
        }
        named = set(re.findall(r"SWITCHBOARD_\w+", path.read_text()))
        assert named
        for variable in named:
            monkeypatch.setenv(variable, values[variable])
        settings = load(path)
        check(settings)

    def test_the_mapping_is_one(self) -> None:
        mapping = read_mapping(ROOT / "config/examples/mapping.yaml")
        assert {number.agent for number in mapping.numbers} == {a.name for a in mapping.agents}
        assert all(number.fallback for number in mapping.numbers)
