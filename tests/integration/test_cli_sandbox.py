"""The ten-minute trial: a sandbox in one terminal, the other commands in a second one."""

import argparse
import asyncio
import json
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from config import Settings, load
from router.cli import call, instance
from router.clock import SYSTEM
from router.provider import (
    NumberInventory,
    NumberQuery,
    OwnedNumber,
    ProviderContext,
    SipTarget,
)
from router.providers import providers
from tests.support.cli import Ran, Shell, Started
from tests.support.nodes import ACCOUNT, KEY, MAPPING, SECRET, TOKEN, free_port

ANNA, BOB, NOBODYS = "+14155550100", "+14155550101", "+14155559999"
AT_TELNYX = "+14155550102"
UP = "Ctrl-C stops it."
SANDBOX = r"sandbox on http://127\.0\.0\.1:\d+ \(data folder /.*/data/sandbox\)\n"


ACCOUNTS = {
    "SWITCHBOARD_PUBLIC_URL": "https://calls.example.com",
    "SWITCHBOARD_HTTP__PORT": "1",
    "SWITCHBOARD_LIVEKIT__URL": "http://127.0.0.1:1",
    "SWITCHBOARD_LIVEKIT__API_KEY": KEY,
    "SWITCHBOARD_LIVEKIT__API_SECRET": SECRET,
    "SWITCHBOARD_LIVEKIT__SIP_HOST": "sip.example.com",
    "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": ACCOUNT,
    "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": TOKEN,
    "SWITCHBOARD_PROVIDERS__VOCODE__SECRETS": "a-secret-for-the-path-of-vocode",
    "SWITCHBOARD_DISPATCH__DEADLINE": "0.3",
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def sandbox(shell: Shell) -> Iterator[Started]:
    port = free_port()
    with shell.start("up", "--sandbox", "--port", str(port), until=UP) as started:
        (shell.folder / "metrics").write_text(scrape(port))  # before anything happened
        (shell.folder / "port").write_text(str(port))
        yield started
        assert "Traceback" not in started.text
        no_numbers(scrape(port))


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def no_numbers(metrics: str) -> None:
    """After all the tests' calls: no number, no id and no secret is a label."""
    values = re.findall(r'="([^"]*)"', re.sub(r'(le|version)="[^"]*"', "", metrics))
    assert "twilio" in values
    fsyncs = re.search(r"switchboard_journal_fsync_seconds_count ([0-9.]+)", metrics)
    assert fsyncs
    assert float(fsyncs[1]) > 0
    for value in values:
        assert re.fullmatch(r"[A-Za-z_.-]*|[1-5][0-9][0-9]|\d{1,2}", value), value


@pytest.mark.usefixtures("sandbox")
def test_every_series_of_an_alert_exists_from_the_start(shell: Shell) -> None:
    metrics = (shell.folder / "metrics").read_text()
    page = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text()
    alerts = page.partition("| alert | expression |")[2].partition("\n\n")[0]
    wanted = re.findall(r"(switchboard_[a-z_]+)(?:\{([^}]*)\})?", alerts)
    assert len(wanted) > 15
    lines = [line for line in metrics.splitlines() if not line.startswith("#")]
    for name, labels in wanted:
        found = [
            line
            for line in lines
            if re.match(rf"{name}(_count)?[{{ ]", line)
            and all(re.search(label.replace("=~", "="), line) for label in labels.split(","))
        ]
        assert found, (name, labels)
        if labels or name.endswith("_total"):
            assert all(float(line.split()[-1]) >= 0 for line in found)
    assert [line for line in lines if 'status="503"' in line and 'provider="twilio"' in line]
    for name in ("switchboard_build_info{version=", "process_cpu_seconds_total ", "python_info{"):
        assert any(line.startswith(name) for line in lines), name
    assert "switchboard_journal_fsync_seconds_count" in metrics
    assert "switchboard_calls_in_progress 0.0" in lines
    assert "_created" not in metrics


@pytest.mark.usefixtures("sandbox")
def test_calls_in_progress_are_counted(shell: Shell) -> None:
    port = int((shell.folder / "port").read_text())
    with shell.start("call", ANNA, "--hold", "1", until="appended") as calling:
        assert "switchboard_calls_in_progress 1.0" in scrape(port)
        assert calling.wait() == 0
    assert "switchboard_calls_in_progress 0.0" in scrape(port)


@pytest.mark.usefixtures("sandbox")
def test_what_is_asked_for_is_alone_on_stdout(shell: Shell) -> None:
    for command in (["numbers", "list"], ["calls", "list"], ["doctor"], ["explain", ANNA]):
        ran = shell.invoke(*command, "--json")
        json.loads(ran.out)
        assert re.fullmatch(SANDBOX, ran.err), (command, ran.err)


def test_real_settings_are_not_taken_by_the_sandbox(shell: Shell, sandbox: Started) -> None:
    (shell.folder / "real.toml").write_text('public_url = "https://calls.example.com"\n')
    ran = shell.invoke("doctor", "--config", "real.toml")
    assert ran.code == 1
    assert "no instance runs here (settings real.toml, data folder " in ran.err
    assert "because of --config" in ran.err
    mine = {"SWITCHBOARD_LIVEKIT__URL": "http://127.0.0.1:1"}
    ran = shell.invoke("numbers", "list", env=mine)
    assert ran.code == 3  # the real database, which is not there
    assert "because of SWITCHBOARD_LIVEKIT__URL" in ran.err
    ran = shell.invoke("up", "--port", str(free_port()), env=ACCOUNTS)
    assert ran.code == 2
    assert f"a sandbox (pid {sandbox.process.pid}) already runs" in ran.err


@pytest.mark.usefixtures("sandbox")
def test_calls_are_told_in_plain_words(shell: Shell) -> None:
    rejected = shell.invoke("call", NOBODYS)
    assert "call.ended        turned away" in rejected.out
    assert shell.invoke("call", AT_TELNYX, "--hold", "0.2").code == 0
    for record in json.loads(shell.invoke("calls", "list", "--json").out)[:2]:
        shown = shell.invoke("calls", "show", record["call_id"]).out
        assert "provider.unknown" not in shown
        assert ("turned away" in shown) == ("reject" in shown)
        assert ("livekit           track_published" in shown) == ("reject" not in shown)


def steps(ran: Ran) -> list[str]:
    """The names of a timeline's lines."""
    lines = (re.match(r" *[0-9.]+ ms  (.{17})", line) for line in ran.out.splitlines())
    return [line[1].strip() for line in lines if line]


def in_order(found: list[str], *wanted: str) -> bool:
    """Whether `wanted` are among `found` in this order, by their first occurrences."""
    return all(name in found for name in wanted) and [*wanted] == sorted(wanted, key=found.index)


@pytest.mark.parametrize(("number", "agent"), [(ANNA, "anna"), (BOB, "bob")])
@pytest.mark.usefixtures("sandbox")
def test_a_call_is_told_step_by_step(shell: Shell, number: str, agent: str) -> None:
    ran = shell.run("call", number, "--hold", "0.3")
    assert ran.code == 0, ran
    found = steps(ran)
    assert in_order(found, "webhook", "verified", "decided", "appended", "answered"), found
    assert in_order(
        found, "appended", "agent.dispatched", "agent.joined", "agent.ready", "call.ended"
    ), found
    assert f"number is mapped to agent {agent}" in ran.out
    times = [float(line.split()[0]) for line in ran.out.splitlines()]
    assert times == sorted(times)
    assert re.fullmatch(SANDBOX, ran.err), ran.err


@pytest.mark.usefixtures("sandbox")
def test_a_call_at_telnyx_is_told_with_the_command_that_it_waits_for(shell: Shell) -> None:
    ran = shell.invoke("call", AT_TELNYX, "--hold", "0.3")
    assert ran.code == 0, ran
    found = steps(ran)
    assert in_order(found, "webhook", "verified", "decided", "appended", "answered"), found
    assert in_order(found, "appended", "command", "sip ringing", "sip answered", "hung up"), found
    assert in_order(found, "agent.dispatched", "agent.joined", "agent.ready", "call.ended"), found
    assert found.count("webhook") == found.count("command") == 1
    assert "/telnyx call.initiated" in ran.out
    assert "signed by Telnyx" in ran.out
    assert "number is mapped to agent bob" in ran.out
    assert "transfer to sip:" in ran.out
    times = [float(line.split()[0]) for line in ran.out.splitlines()]
    assert times == sorted(times)
    assert re.fullmatch(SANDBOX, ran.err), ran.err
    explained = shell.invoke("explain", AT_TELNYX)
    assert "dispatch bob" in explained.out


@pytest.mark.usefixtures("sandbox")
def test_an_unmapped_number_is_told_why(shell: Shell) -> None:
    ran = shell.invoke("call", NOBODYS)
    assert ran.code == 1
    assert "number is not mapped" in ran.out
    assert f"switchboard explain {NOBODYS}" in ran.err
    explained = shell.invoke("explain", NOBODYS)
    assert explained.code == 0
    assert "number is not mapped" in explained.out


@pytest.mark.usefixtures("sandbox")
def test_what_there_is(shell: Shell) -> None:
    assert "dispatch anna" in shell.invoke("explain", ANNA).out
    agents = shell.invoke("agents", "list")
    assert '{"greeting":"Hello, this is Anna"}' in agents.out
    assert [
        agent["name"] for agent in json.loads(shell.invoke("agents", "list", "--json").out)
    ] == [
        "anna",
        "bob",
    ]
    assert "+14155550199" in shell.invoke("numbers", "list").out
    numbers = json.loads(shell.invoke("numbers", "list", "--json").out)
    assert [number["number"] for number in numbers] == [ANNA, BOB, AT_TELNYX]


@pytest.mark.usefixtures("sandbox")
def test_doctor_finds_all_well(shell: Shell) -> None:
    ran = shell.invoke("doctor")
    assert ran.code == 0, ran
    findings = json.loads(shell.invoke("doctor", "--json").out)
    assert {finding["level"] for finding in findings} == {"ok"}


@pytest.mark.usefixtures("sandbox")
def test_a_call_is_found_again(shell: Shell) -> None:
    assert shell.invoke("call", BOB, "--hold", "0.2").code == 0
    [newest, *_] = json.loads(shell.invoke("calls", "list", "--json").out)
    assert (newest["agent"], newest["state"]) == ("bob", "ended")
    assert newest["call_id"][:13] in shell.invoke("calls", "list", "--limit", "1").out
    for name in (newest["call_id"], newest["call_id"][:10], newest["provider_call_id"]):
        shown = shell.invoke("calls", "show", name)
        assert shown.code == 0
        assert "agent.ready" in shown.out
        assert re.search(r"^twilio CA[0-9a-f]{32} +agent +answered +200 ", shown.out, re.MULTILINE)
    whole = json.loads(shell.invoke("calls", "show", newest["call_id"], "--json").out)
    assert whole["call"] == newest
    assert "call.initiated" in [event["type"] for event in whole["events"]]
    ended = {leg["dialled"]: leg for leg in whole["call"]["legs"]}
    assert ended[""]["leg_id"] == newest["provider_call_id"]
    assert (ended["agent"]["disposition"], ended["agent"]["sip_status"]) == ("answered", 200)


@pytest.mark.usefixtures("sandbox")
def test_tail_prints_a_call_while_it_happens(shell: Shell) -> None:
    with (
        shell.start("tail") as people,
        shell.start("tail", "--json", "--back", "1000") as scripts,
    ):
        people.opens("events.db")  # they print nothing before the first event
        scripts.opens("events.db")
        assert shell.invoke("call", ANNA, "--hold", "0.2").code == 0
        people.says("call.ended")
        scripts.says('"call.ended"')
        assert people.end(signal.SIGINT) in (0, 130)
        scripts.process.send_signal(signal.SIGINT)
        assert scripts.end(signal.SIGINT) in (0, 130, -signal.SIGINT)  # an impatient user
    assert f"{ANNA}, dispatch: number is mapped to agent anna" in people.text
    assert "Traceback" not in people.text + scripts.text
    events = [json.loads(line) for line in scripts.out_file.read_text().splitlines()]
    assert {"call.initiated", "agent.ready"} <= {event["type"] for event in events}


@pytest.mark.usefixtures("sandbox")
def test_a_number_at_a_provider_that_the_sandbox_has_not(shell: Shell) -> None:
    (shell.folder / "vocode.yaml").write_text(
        'numbers: [{number: "+14155550105", provider: vocode, agent: bob}]\n'
    )
    assert shell.invoke("apply", "vocode.yaml", "--yes").code == 0
    ran = shell.invoke("call", "+14155550105")
    assert ran.code == 1
    assert "Vocode tells of calls that it carries itself" in ran.err


@pytest.mark.usefixtures("sandbox")
def test_apply_holds_for_the_next_call(shell: Shell) -> None:
    (shell.folder / "mapping.yaml").write_text(
        "agents: [{name: zoe, livekit_agent_name: bob, metadata: {odd: '[/red]'}}]\n"
        f'numbers: [{{number: "{ANNA}", provider: twilio, agent: zoe}}]\n'
    )
    applied = shell.run("apply", "mapping.yaml", "--yes")
    assert applied.code == 0
    assert "+ agent  zoe" in applied.out
    assert f"~ number {ANNA}: anna, else +14155550199 → zoe" in applied.out
    assert "Holds now" in applied.out
    ran = shell.invoke("call", ANNA, "--hold", "0.2")
    assert ran.code == 0
    assert "number is mapped to agent zoe" in ran.out
    assert "[/red]" in shell.invoke("agents", "list").out
    again = json.loads(shell.invoke("apply", "mapping.yaml", "--json").out)
    assert (again["changes"], again["holds"]) == ([], True)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("provider", ["twilio", "telnyx"])
def test_a_bought_number_is_called_until_it_is_given_back(shell: Shell, provider: str) -> None:
    (running,) = instance.running(shell.folder / "data")
    assert running.stand_ins is not None
    settings = load(overrides=dict(running.stand_ins.overrides))

    async def bought() -> OwnedNumber:
        async with inventory(settings, provider) as carrier:
            (offer,) = await carrier.search(NumberQuery(area_code="646", limit=1))
            return await carrier.buy(offer.number, tag="an-order")

    async def released(number: OwnedNumber) -> None:
        async with inventory(settings, provider) as carrier:
            await carrier.release(number)

    owned = asyncio.run(bought())
    (shell.folder / "bought.yaml").write_text(
        f'numbers: [{{number: "{owned.number}", provider: {provider}, agent: bob}}]\n'
    )
    assert shell.invoke("apply", "bought.yaml", "--yes").code == 0
    ran = shell.invoke("call", owned.number, "--hold", "0.1")
    assert ran.code == 0, ran.text
    asyncio.run(released(owned))
    ran = shell.invoke("call", owned.number)
    assert ran.code == 1
    assert f"not in service: no account at {provider.title()} has it" in ran.err
    assert "agent.dispatched" not in ran.out


def curl(line: str) -> tuple[int, dict[str, Any]]:
    """What a `curl` line with a header, a URL and a body is answered."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", dest="header")
    parser.add_argument("-d", dest="body")
    parser.add_argument("url")
    given = parser.parse_args(shlex.split(line)[1:])
    url = given.url if "://" in given.url else f"http://{given.url}"
    name, _, value = given.header.partition(": ")
    request = urllib.request.Request(url, given.body.encode(), {name: value})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def line_of(text: str) -> str:
    """The line with `curl` in a text."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith("curl ")]
    return line


def test_the_line_of_the_first_screen_buys_a_number_that_reaches_its_agent(
    shell: Shell, sandbox: Started
) -> None:
    status, bought = curl(line_of(sandbox.out_file.read_text()))
    assert (status, bought["agent_name"], bought["number"][:5]) == (201, "carla", "+1415")
    ran = shell.invoke("call", bought["number"], "--hold", "0.2")
    assert ran.code == 0, ran.text
    assert "number is mapped to agent carla" in ran.out
    found = steps(ran)
    assert in_order(found, "webhook", "agent.dispatched", "agent.ready", "hung up"), found
    shown = json.loads(shell.invoke("calls", "list", "--account", "demo", "--json").out)
    assert (shown[0]["agent"], shown[0]["disposition"]) == ("carla", "answered")


@pytest.mark.usefixtures("sandbox")
def test_the_readmes_account_and_token_search_for_numbers(shell: Shell) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    commands = page.partition("## Numbers by API")[2].partition("```\n")[2].partition("```")[0]
    script = re.sub(r"^curl .*", 'echo "$TOKEN"', commands, flags=re.MULTILINE)
    script = script.replace(".venv/bin/switchboard", f"{sys.executable} -m router")
    typed = subprocess.run(
        ["bash", "-ec", script],
        cwd=shell.folder,
        env=shell.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert typed.returncode == 0, typed.stderr
    token = typed.stdout.split()[-1]
    port = (shell.folder / "port").read_text()
    line = line_of(commands).replace(":8080", f":{port}")
    status, found = curl(line.replace("$TOKEN", token))
    assert (status, found["total_results"]) == (200, len(found["results"]))
    assert {each["phone_number"][:5] for each in found["results"]} == {"+1415"}
    assert curl(line.replace("$TOKEN", token[:-1]))[0] == 401
    options = ["--account", "acme", "--scope", "numbers:write", "--scope", "agents:write"]
    made = json.loads(shell.invoke("tokens", "create", *options, "--json").out)
    assert curl(line.replace("$TOKEN", made["token"]))[0] == 200
    account = json.loads(shell.invoke("accounts", "show", "acme", "--json").out)
    assert (account["plan"]["numbers"], account["plan"]["calls"]) == (5, 10)
    assert token not in shell.invoke("tokens", "list", "--account", "acme", "--json").out


def test_a_bought_number_outlives_a_restart_and_the_token_does_not(tmp_path: Path) -> None:
    shell, port = Shell(tmp_path), str(free_port())
    with shell.start("up", "--sandbox", "--port", port, until=UP) as started:
        former = line_of(started.out_file.read_text())
        _, bought = curl(former)
    with shell.start("up", "--sandbox", "--port", port, until=UP) as started:
        assert curl(former)[0] == 401
        ran = shell.invoke("call", bought["number"], "--hold", "0.2")
        assert ran.code == 0, ran.text
        assert "number is mapped to agent carla" in ran.out
        status, another = curl(line_of(started.out_file.read_text()))
        assert (status, another["number"] != bought["number"]) == (201, True)


def inventory(settings: Settings, provider: str) -> AbstractAsyncContextManager[NumberInventory]:
    opened = next(each.inventory for each in providers() if each.name == provider)
    assert opened is not None
    return opened(ProviderContext(settings, SipTarget("", "udp", "", ""), SYSTEM), None)


def test_a_second_sandbox_is_refused_and_harms_nothing(shell: Shell, sandbox: Started) -> None:
    before = shell.invoke("numbers", "list").out
    ran = shell.invoke("up", "--sandbox", "--port", str(free_port()))
    assert ran.code == 2
    assert f"a sandbox (pid {sandbox.process.pid}) already runs" in ran.err
    assert shell.invoke("numbers", "list").out == before
    assert shell.invoke("call", BOB, "--hold", "0.1").code == 0


def test_a_trial_never_touches_real_things(tmp_path: Path) -> None:
    """Settings that name a database and brokers: the sandbox uses its own all the same."""
    shell = Shell(
        tmp_path,
        {
            "SWITCHBOARD_DATABASE__URL": "postgresql+psycopg://127.0.0.1:1/production",
            "SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "SWITCHBOARD_ROLES": "ingress",
            "SWITCHBOARD_DURABILITY": "replicated",
            "SWITCHBOARD_SECRET_KEY": "ab" * 32,
        },
    )
    with shell.start("up", "--sandbox", "--port", str(free_port()), until=UP) as started:
        assert shell.invoke("call", BOB, "--hold", "0.1").code == 0
        began = time.monotonic()
        assert started.end(signal.SIGTERM) == 0
        print(f"SIGTERM to exit: {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 5
        assert started.out_file.read_text().endswith("Stopped.\n")
        assert (tmp_path / "data" / "sandbox" / "secret.key").read_text().strip() != "ab" * 32
        assert shell.invoke("call", BOB).code == 3


def test_a_call_at_an_instance_with_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the webhooks are placed; LiveKit is away here, so no agent is heard."""
    shell = Shell(tmp_path, ACCOUNTS)
    port = free_port()
    at_telnyx = f'  - {{number: "{NOBODYS}", provider: telnyx, agent: bob}}\n'
    (tmp_path / "mapping.yaml").write_text(MAPPING + at_telnyx)
    monkeypatch.delitem(call._ALONE, "vocode")  # as of a provider that was added
    with shell.start("up", "--port", str(port), until=UP) as started:  # found by the others
        assert "calls.example.com/webhooks/twilio/voice" in started.text
        assert "calls.example.com/webhooks/telnyx" not in started.text  # it is not set up
        assert "calls.example.com/webhooks/vocode/…" in started.text
        assert "a-secret-for" not in started.text
        assert "Holds now" in shell.invoke("apply", "mapping.yaml", "--yes").out
        ran = shell.invoke("call", ANNA, "--hold", "0.1")
        refused = shell.invoke("call", NOBODYS)
        at_vocode = at_telnyx.replace("telnyx", "vocode")
        (tmp_path / "mapping.yaml").write_text(MAPPING + at_vocode)
        assert "Holds now" in shell.invoke("apply", "mapping.yaml", "--yes").out
        refused_too = shell.invoke("call", NOBODYS)
    assert (refused.code, refused_too.code) == (1, 1)
    assert "Telnyx signs with a key that only Telnyx has. Ring the number" in refused.err
    assert "is at Vocode, whose calls can't be placed from here" in refused_too.err
    assert ran.code == 1
    found = steps(ran)
    assert in_order(found, "webhook", "verified", "decided", "appended", "answered"), found
    assert f"switchboard explain {ANNA}" in ran.err
    assert f"instance on http://127.0.0.1:{port} (no settings file, data" in ran.err


def test_a_killed_sandbox_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    shell, port = Shell(tmp_path), str(free_port())
    with shell.start("up", "--sandbox", "--port", port, until=UP) as started:
        started.end(signal.SIGKILL)
    assert (tmp_path / "data" / "sandbox.json").stat().st_size > 0
    assert shell.invoke("call", ANNA).code == 3
    assert shell.invoke("doctor").code == 1
    with shell.start("up", "--sandbox", "--port", port, until=UP) as started:
        assert started.end(signal.SIGINT) == 0


def test_a_role_that_dies_ends_the_process_with_its_trace(tmp_path: Path) -> None:
    program = (
        "from router.numbers import publish\n"
        "async def dies(*_): raise RuntimeError('a bug in a role')\n"
        "publish.run = dies\n"
        "from router.cli.main import app\n"
        f"app(['up', '--sandbox', '--port', '{free_port()}'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=Shell(tmp_path).environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "RuntimeError: a bug in a role" in done.stderr


def test_a_disk_that_fails_ends_the_node_with_exit_code_4(tmp_path: Path) -> None:
    """No file can grow any more (RLIMIT_FSIZE): the journal gives up, the node with it."""
    shell = Shell(tmp_path)
    with shell.start("up", "--sandbox", "--port", str(free_port()), until=UP) as started:
        small = 8192  # enough for what it has to say about it
        resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (small, small))
        called = shell.invoke("call", ANNA, "--hold", "0.1")
        assert started.wait() == 4
    assert called.code in (1, 3)
    assert "Traceback" not in started.text
    assert "disk" in started.text.splitlines()[-1]


def test_a_bought_number_is_released_and_not_forgotten(tmp_path: Path) -> None:
    shell, port = Shell(tmp_path), str(free_port())
    with shell.start("up", "--sandbox", "--port", port, until=UP) as started:
        _, bought = curl(line_of(started.out_file.read_text()))
        number = bought["number"]
        refused = shell.invoke("numbers", "remove", number, "--account", "demo", "--yes")
        assert refused.code == 2
        assert "numbers release" in refused.text
        given_back = shell.invoke("numbers", "release", number, "--account", "demo")
        assert (given_back.code, given_back.out.strip()) == (0, f"{number} is released.")
        assert shell.invoke("numbers", "release", number, "--account", "demo").code == 1
        assert shell.invoke("call", number).code == 1
