"""`switchboard doctor`: each check both ways, and nothing that is wrong ends it."""

import asyncio
import json
import logging
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import Settings
from router.cli import doctor, instance
from router.providers.livekit.client import open_livekit
from router.providers.livekit.setup import ensure
from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.serve import serve
from router.secrets import load_key, sip_credentials
from router.storage.migrate import migrate
from tests.support.cli import Shell
from tests.support.nodes import KEY, SECRET, apply_text, free_port, node_settings, running
from tests.support.servers.kafka import Kafka

EXAMPLES: Final = Path(__file__).parents[2] / "config" / "examples"
NOWHERE: Final = "http://127.0.0.1:1"
LOCAL: Final = {  # of the examples: nothing leaves this machine
    "SWITCHBOARD_PUBLIC_URL": NOWHERE,
    "SWITCHBOARD_LIVEKIT__URL": NOWHERE,
    "SWITCHBOARD_HTTP__PORT": "1",
}
CHECKS: Final = [
    *("instance", "settings", "data folder", "clock", "database", "Kafka", "LiveKit"),
    *("public URL", "routes", "webhooks", "transfers"),
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, dict(LOCAL))


def own(tmp_path: Path, **more: Any) -> Settings:
    return node_settings(
        tmp_path / "data", port=free_port(), livekit_url=more.pop("livekit_url", NOWHERE), **more
    )


async def found(settings: Settings, what: str) -> doctor.Finding:
    return next(each for each in await doctor.examine(settings) if each.what == what)


@asynccontextmanager
async def answering(**headers: str) -> AsyncIterator[str]:
    """A server that gives every request these headers."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok", headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serve(app, 0) as url:
        yield url


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        (0, "ok", "0 s against LiveKit"),
        (50, "ok", "s against LiveKit"),
        (-50, "ok", "s against LiveKit"),
        (
            90,
            "problem",
            "90 s ahead of LiveKit's: tokens and signatures are refused; set the clock",
        ),
        (-90, "problem", "90 s behind LiveKit's"),
        (86_400 * 365, "problem", "ahead of"),
    ],
)
async def test_the_clock_is_compared_with_livekits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, level: str, words: str
) -> None:
    now = 1_780_000_000
    monkeypatch.setattr(time, "time", lambda: float(now))
    async with answering(Date=formatdate(now - ahead, usegmt=True)) as url:
        finding = await found(own(tmp_path, livekit_url=url), "clock")
    assert finding.level == level
    assert words in finding.words


@pytest.mark.parametrize("date", ["yesterday", "", "Thu, 28 May 2026 20:26:40 -0000"])
async def test_a_time_that_nobody_says(tmp_path: Path, date: str) -> None:
    async with answering(Date=date) as url:
        finding = await found(own(tmp_path, livekit_url=url), "clock")
    wanted = "problem" if "2026" in date else "warning"
    assert finding.level == wanted, finding
    finding = await found(own(tmp_path), "clock")
    assert (finding.level, "can't be reached" in finding.words) == ("warning", True)


async def test_the_data_folder(tmp_path: Path) -> None:
    settings = own(tmp_path)
    finding = await found(settings, "data folder")
    assert (finding.level, "not there yet" in finding.words) == ("ok", True)
    assert not settings.data_dir.exists()
    settings.data_dir.mkdir()
    finding = await found(settings, "data folder")
    assert (finding.level, "secret.key is made at" in finding.words) == ("ok", True)
    assert list(settings.data_dir.iterdir()) == []  # a look makes nothing
    load_key("", settings.data_dir)
    settings.data_dir.chmod(0o755)
    assert "secret.key" not in (await found(settings, "data folder")).words
    assert (await found(settings, "data folder")).level == "ok"
    (settings.data_dir / "backup.db").touch(0o644)
    finding = await found(settings, "data folder")
    assert (finding.level, "backup.db" in finding.words) == ("warning", True)
    full = await found(own(tmp_path, journal={"min_free_bytes": 1 << 44}), "data folder")
    assert (full.level, "disk full" in full.words) == ("problem", True)
    (tmp_path / "file").touch()
    occupied = settings.model_copy(update={"data_dir": tmp_path / "file"})
    finding = await found(occupied, "data folder")
    assert (finding.level, str(tmp_path / "file") in finding.words) == ("problem", True)


async def test_the_database(tmp_path: Path) -> None:
    settings = own(tmp_path)
    assert (await found(settings, "database")).level == "problem"
    await migrate(settings)
    assert (await found(settings, "database")).level == "ok"
    away = own(
        tmp_path, database={"url": "postgresql://u:hunter22@127.0.0.1:1/d"}, secret_key="ab" * 32
    )
    finding = await found(away, "database")
    assert (finding.level, "hunter22" in finding.words) == ("problem", False)


async def test_transfers(tmp_path: Path) -> None:
    settings = own(tmp_path)
    finding = await found(settings, "transfers")
    assert (finding.level, "once the database can" in finding.words) == ("ok", True)
    await apply_text(settings)  # bob's number has no fallback
    finding = await found(settings, "transfers")
    assert (finding.level, "not callers of +14155550101:" in finding.words) == ("ok", True)
    lines = [f'{{number: "+1415555020{n}", provider: twilio, agent: bob}}' for n in range(4)]
    await apply_text(settings, f"numbers: [{', '.join(lines)}]")
    assert "and more" in (await found(settings, "transfers")).words
    elsewhere = '{number: "+14155550199", provider: twilio}, {number: "+14155550198", '
    every = f"numbers: [{elsewhere}provider: telnyx, agent: bob}}]"
    bare = own(tmp_path / "other")
    await apply_text(bare, f"agents: [{{name: bob}}]\n{every}")
    assert "but not" not in (await found(bare, "transfers")).words
    unused = settings.model_copy(deep=True)
    twilio = unused.providers.twilio.model_copy(update={"account_sid": ""})
    providers = unused.providers.model_copy(update={"twilio": twilio})
    unused = unused.model_copy(update={"providers": providers})
    assert "no account of Twilio's" in (await found(unused, "transfers")).words


async def test_livekit(tmp_path: Path) -> None:
    async with LiveKitStandIn(api_key=KEY, api_secret=SECRET) as standin:
        settings = own(tmp_path, livekit_url=standin.url)
        assert (await found(settings, "LiveKit")).level == "warning"  # no trunk yet
        async with open_livekit(settings.livekit) as client:
            await ensure(client, sip_credentials(load_key("", settings.data_dir)))
        assert (await found(settings, "LiveKit")).level == "ok"
        foreign = own(tmp_path, livekit_url=standin.url, livekit={"api_secret": "x" * 32})
        assert (await found(foreign, "LiveKit")).level == "problem"
    finding = await found(own(tmp_path), "LiveKit")
    assert (finding.level, NOWHERE in finding.words) == ("problem", True)


async def test_the_public_url_and_the_instance(tmp_path: Path) -> None:
    settings = own(tmp_path)
    routes = await apply_text(settings)
    for what, level in (("public URL", "warning"), ("instance", "ok")):
        assert (await found(settings, what)).level == level
    assert "nothing answers at" in (await found(settings, "instance")).words
    async with running(settings, routes=routes):
        findings = {
            each.what: each for each in await doctor.examine(settings, name="the node of x")
        }
    assert (findings["public URL"].level, findings["settings"].level) == ("ok", "ok")
    assert findings["instance"].words == "the node of x"
    async with answering() as url:
        other = settings.model_copy(update={"public_url": url.replace("//", "//user:hunter22@")})
        assert (await found(other, "public URL")).level == "ok"
        other = settings.model_copy(update={"public_url": f"http://user:hunter22@{url[7:]}1"})
        assert "hunter22" not in (await found(other, "public URL")).words


async def test_kafka_that_is_away(tmp_path: Path) -> None:
    assert (await found(own(tmp_path), "Kafka")).level == "ok"
    away = own(tmp_path, kafka={"bootstrap_servers": ["127.0.0.1:1"]})
    finding = await found(away, "Kafka")
    assert finding.level == "problem"
    assert "127.0.0.1:1 (kafka.bootstrap_servers) can't be used: no broker answers" in finding.words
    assert "Error" not in finding.words  # of a class


async def test_kafka_that_is_there(tmp_path: Path, kafka: Kafka) -> None:
    there = own(tmp_path, kafka={"bootstrap_servers": kafka.bootstrap})
    assert (await found(there, "Kafka")).level == "ok"


async def test_answers_that_can_not_be_made_are_found(tmp_path: Path) -> None:
    """The start would say so later: a provider's own rule is no key's alone."""
    vocode = {"action_secrets": ["c2VjcmV0LW9mLWFuLWFjdGlvbg=="]}
    finding = await found(own(tmp_path, providers={"vocode": vocode}), "settings")
    assert (finding.level, "providers.vocode.secrets" in finding.words) == ("problem", True)


async def test_an_error_that_nobody_foresaw_is_a_finding_of_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_settings: Settings) -> doctor.Finding:
        raise ExceptionGroup("many", [ExceptionGroup("more", [ZeroDivisionError("hunter22")])])

    async def hangs(_settings: Settings) -> doctor.Finding:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(doctor, "_kafka", broken)
    monkeypatch.setattr(doctor, "_livekit", hangs)
    monkeypatch.setattr(doctor, "_TIMEOUT", 2.0)
    findings = await doctor.examine(own(tmp_path))
    assert [each.what for each in findings] == CHECKS
    kafka, livekit = findings[5], findings[6]
    assert (kafka.level, livekit.level) == ("problem", "problem")
    assert "ZeroDivisionError" in kafka.words
    assert "report it" in kafka.words
    assert "hunter22" not in kafka.words
    assert livekit.words.startswith("no answer within 2 s")


def test_nothing_but_the_findings_is_printed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def noisy(_settings: Settings) -> doctor.Finding:
        logging.getLogger("aiokafka").error("Unable to connect")
        logging.getLogger("router.x").critical("a log line")
        warnings.warn("the key is short", UserWarning, stacklevel=1)
        return doctor.Finding("Kafka", "ok", "")

    monkeypatch.setattr(doctor, "_kafka", noisy)
    ran = shell.invoke("doctor")
    assert ran.code == 1
    assert ran.err.strip().endswith("to mend")
    assert len(ran.err.splitlines()) == 2  # the instance that is meant, and how many there are
    assert "Unable" not in ran.text
    assert "short" not in ran.text
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize("name", ["node.toml", "cluster.toml"])
def test_the_examples_without_their_secrets(shell: Shell, name: str) -> None:
    quick = {"SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS": ""}
    ran = shell.invoke("doctor", "--json", "-c", str(EXAMPLES / name), env=quick)
    assert ran.code == 1
    findings = {each["what"]: each for each in json.loads(ran.out)}
    assert list(findings) == CHECKS
    assert "livekit.api_secret: is missing" in findings["settings"]["words"]
    assert name in findings["instance"]["words"]


def test_a_sandbox_is_named(shell: Shell, tmp_path: Path) -> None:
    assert "no instance runs here (no settings file" in shell.invoke("doctor").out
    with instance.claimed(tmp_path / "data", sandbox=True) as claim:
        stand_ins = instance.StandIns({}, {}, "", "")
        claim.publish(instance.Instance(4711, "127.0.0.1", 1, stand_ins=stand_ins))
        assert "sandbox on http://127.0.0.1:1" in shell.invoke("doctor").out


def test_wrong_settings_are_findings_all_of_them(shell: Shell) -> None:
    wrong = {
        "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": "foo",
        "SWITCHBOARD_DISPATCH__LEASE": "inf",
        "SWITCHBOARD_LIVEKIT__WEBHOOK_KEYS": "{",
        "SWITCHBOARD_HTP__PORT": "1",
    }
    ran = shell.invoke("doctor", env=wrong)
    assert (ran.code, ran.err) == (1, "one to mend\n")
    for key in (
        *("providers.twilio.account_sid", "dispatch.lease", "livekit.webhook_keys"),
        "SWITCHBOARD_HTP__PORT",
    ):
        assert f"{key}: " in ran.out
    [settings, rest] = json.loads(shell.invoke("doctor", "--json", env=wrong).out)
    assert len(settings["words"].splitlines()) == 4
    assert (settings["level"], rest["level"]) == ("problem", "warning")


COMPLETE: Final = {
    "LIVEKIT__API_KEY": KEY,
    "LIVEKIT__API_SECRET": SECRET,
    "LIVEKIT__SIP_HOST": "sip.example.com",
    "LIVEKIT__URL": NOWHERE,
    "PUBLIC_URL": NOWHERE,
    "PROVIDERS__TWILIO__ACCOUNT_SID": "AC" + "a1" * 16,
    "PROVIDERS__TWILIO__AUTH_TOKENS": SECRET,
    "SECRET_KEY": "ab" * 32,
    "DATABASE__URL": "",
    "KAFKA__SSL_CAFILE": "",
    "ROLES": "ingress,dispatch,calls,relay",
}
ODD: Final = (
    "",
    " ",
    "x",
    "[",
    "{}",
    "ssh-ed25519 AAAAAAAA",
    "/no/such",
    "ingress",
    "https://h:1x",
)


@given(changes=st.dictionaries(st.sampled_from(sorted(COMPLETE)), st.sampled_from(ODD), max_size=6))
@example(changes=dict.fromkeys(COMPLETE, ""))
@example(changes={"LIVEKIT__API_KEY": "", "LIVEKIT__API_SECRET": ""})
@example(changes={"ROLES": "ingress", "LIVEKIT__URL": ""})
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_missing_or_wrong_it_does_not_crash(
    shell: Shell, changes: dict[str, str]
) -> None:
    both = {**COMPLETE, **changes}
    variables = {f"SWITCHBOARD_{name}": text for name, text in both.items()}
    ran = shell.invoke("doctor", "--json", env=variables)
    assert ran.code == 1
    findings = json.loads(ran.out)
    assert [each["what"] for each in findings] in (CHECKS, ["settings", "all else"])
    assert not [each for each in findings if "the check itself failed" in each["words"]]
    assert ran.err.rstrip().endswith("to mend")


async def test_connections_that_another_key_sealed_are_told(tmp_path: Path) -> None:
    async def ready(_request: web.Request) -> web.Response:
        connections = {"connections": 3, "unreadable": 2}
        return web.json_response({"ready": True, "roles": ["api"], "connections": connections})

    app = web.Application()
    app.router.add_get("/readyz", ready)
    settings = own(tmp_path)
    async with serve(app, settings.http.port):
        finding = await found(settings, "webhooks")
    assert finding.level == "problem"
    assert "2 connections of accounts can't be opened" in finding.words
    assert "previous_secret_keys" in finding.words
