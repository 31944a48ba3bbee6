"""The commands as a user types them, without anything running: help, mistakes, empty places."""

import ast
import io
import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.testing import CliRunner

from router import errors
from router.cli import context, main, render
from router.errors import (
    ConfigError,
    Invalid,
    PartitionLost,
    RequestError,
    SwitchboardError,
    TooMany,
)
from router.events.call import CallRecord
from router.events.ids import DEFAULT_ACCOUNT
from router.events.model import Event, EventData
from router.events.types import EventType
from router.ingress.webhook import _refusal
from tests.support.cli import Shell
from tests.support.nodes import free_port

COMMANDS = [
    ["up"],
    ["call"],
    ["explain"],
    ["tail"],
    ["apply"],
    ["export"],
    ["doctor"],
    ["migrate"],
    ["calls"],
    ["calls", "list"],
    ["calls", "show"],
    ["agents"],
    ["agents", "list"],
    ["numbers"],
    ["numbers", "list"],
    ["numbers", "remove"],
    ["accounts"],
    ["accounts", "create"],
    ["accounts", "list"],
    ["accounts", "show"],
    ["accounts", "update"],
    ["tokens"],
    ["tokens", "create"],
    ["tokens", "list"],
    ["tokens", "show"],
    ["tokens", "revoke"],
    ["audit"],
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_help_names_every_command(shell: Shell) -> None:
    helped = shell.run("--help")
    assert helped.code == 0
    for command in COMMANDS:
        assert command[0] in helped.out
    assert "Exit codes" in helped.out


HEAVY = {"aiohttp", "sqlalchemy", "livekit", "twilio", "phonenumbers", "pydantic", "uvloop"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_that_a_command_needs(option: str) -> None:
    program = (
        "import sys\n"
        "from router.__main__ import main\n"
        f"sys.argv = ['switchboard', '{option}']\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert metadata.version("switchboard") in done.stdout or "Exit codes" in done.stdout
    loaded = set(ast.literal_eval(done.stderr))
    assert "typer" in loaded
    assert not HEAVY & loaded


def test_help_says_of_each_command_what_its_own_help_says() -> None:
    group = typer.main.get_command(main.app)
    assert isinstance(group, TyperGroup)
    for name, source in main.COMMANDS.items():
        first = (group.commands[name].help or "").partition("\n\n")[0]
        assert " ".join(first.split()) == source.help, name


@pytest.mark.parametrize("module", ["typer", "pydantic", "router.cli.call", "sqlalchemy"])
def test_ctrl_c_while_it_is_still_importing(shell: Shell, module: str) -> None:
    ran = interrupted(shell, module, "call", "+14155550100")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_ctrl_c_while_a_node_starts_stops_it_in_order(shell: Shell) -> None:
    port = str(free_port())
    ran = interrupted(shell, "router.cli.up", "up", "--sandbox", "--port", port)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
    # Imported when it is already listening to signals.
    ran = interrupted(shell, "consumers.host", "up", "--sandbox", "--port", port)
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr
    assert ran.stdout.endswith("Stopped.\n")
    assert "is up" not in ran.stdout


def interrupted(shell: Shell, module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a Ctrl-C when it begins to import `module`."""
    program = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.argv = ['switchboard', *{args!r}]\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from router.__main__ import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env=shell.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def error_classes(root: type[SwitchboardError] = SwitchboardError) -> list[type[SwitchboardError]]:
    """All of router/errors.py."""
    below = [found for child in root.__subclasses__() for found in error_classes(child)]
    return [each for each in (root, *below) if each.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_where_and_what_to_do(
    kind: type[SwitchboardError], capsys: pytest.CaptureFixture[str]
) -> None:
    table = (errors.__doc__ or "").partition("| error ")[2].partition("\n\n")[0]
    found = re.search(rf"\b{kind.__name__} .*\| (\d) +\| (\d+) +\|$", table, re.MULTILINE)
    assert found, f"{kind.__name__} is not in the table of router/errors.py"
    assert kind.exit_code == int(found[1])
    given: dict[type[SwitchboardError], dict[str, Any]] = {
        PartitionLost: {"partitions": ()},
        TooMany: {"retry_after": 1.0},
    }
    more = given.get(kind, {})
    says: Any = (("body",), "what happened") if kind is Invalid else "what happened"
    if issubclass(kind, RequestError):  # the API's; no webhook ends with one
        assert kind.status == int(found[2])
    else:
        assert _refusal(kind(says, **more)).status == int(found[2])
    with pytest.raises(typer.Exit) as ended, context.reported():
        raise kind(says, **more)
    assert ended.value.exit_code == kind.exit_code
    told = capsys.readouterr().err
    assert told.startswith(f"{kind(says, **more)}\n")
    # What these have to say depends on the case, so their messages have the mend.
    has_the_mend = kind is ConfigError or issubclass(kind, RequestError)
    assert len(told.splitlines()) == (1 if has_the_mend else 2)
    with pytest.raises(typer.Exit) as ended, context.reported():
        raise ExceptionGroup("of tasks", [kind(says, **more)])
    assert ended.value.exit_code == kind.exit_code


def test_an_error_of_a_setting_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), context.reported():
        raise ConfigError("port 1 is taken", key="http.port")
    assert capsys.readouterr().err == "http.port: port 1 is taken\n"


def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(ExceptionGroup), context.reported():
        raise ExceptionGroup("of tasks", [RuntimeError("a bug")])


def test_each_command_helps(shell: Shell) -> None:
    for command in COMMANDS:
        helped = shell.invoke(*command, "--help")
        assert helped.code == 0, command
        assert "Usage: " in helped.out


def test_a_flag_takes_no_value_in_the_help(shell: Shell) -> None:
    for command in [[], *COMMANDS]:
        helped = shell.run(*command, "--help").out
        assert "--help" in helped
        assert "<bool>" not in helped, command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["up", "--port", "abc"], "'--port': must be a whole number"),
        (["up", "--port", "99999"], "--port, http.port: must be at most 65535"),
        (["apply", "--prune=5", "x.yaml"], "'--prune': '5' is not one of"),
        (["calls", "list", "--limit", "0"], "'--limit': must be at least 1"),
        (["call", "+14155550100", "--hold", "long"], "'--hold': must be a number"),
    ],
)
def test_a_wrong_option_is_named_in_plain_words(arguments: list[str], words: str) -> None:
    ran = CliRunner().invoke(main.app, arguments)
    assert ran.exit_code == 2
    assert words in ran.stderr
    assert "Value error" not in ran.stderr


def test_wrong_settings_are_a_line_each(shell: Shell) -> None:
    ran = shell.run("up", env={"SWITCHBOARD_HTTP__PORT": "abc", "SWITCHBOARD_LOG__LEVEL": "loud"})
    assert ran.code == 2
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["http.port", "log.level"]
    ran = shell.invoke("up", "--roles", "ingress,cook")
    assert (ran.code, ran.err.partition(":")[0]) == (2, "roles[1]")
    for option, value, words in (
        ("--roles", "ingress, cook", "roles[1]: "),
        ("--roles", "ingress,ingress", "roles: names something twice"),
        ("--roles", "", "roles: there must be at least one"),
        ("--port", "99999", "http.port: "),
        ("--port", "-1", "http.port: "),
    ):
        ran = shell.invoke("up", option, value)
        assert (ran.code, words in ran.err) == (2, True), ran
    ran = shell.invoke("up", env={"SWITCHBOARD_LIVEKIT__API_KY": "x"})
    assert ran.code == 2
    assert "livekit.api_ky: there is no such setting" in ran.err


def test_missing_settings_are_a_line_each(shell: Shell) -> None:
    ran = shell.invoke("up")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 5  # tenants may have carriers of their own
    assert all(": is missing" in line for line in ran.err.splitlines())


def test_settings_files_that_are_none(shell: Shell) -> None:
    (shell.folder / "bad.toml").write_text("[http\nport = 1")
    ran = shell.invoke("doctor", "-c", "bad.toml")
    assert ran.code == 2
    assert "bad.toml is not TOML" in ran.err
    ran = shell.invoke("doctor", "-c", "none.toml")
    assert ran.code == 2
    assert "there is no settings file none.toml" in ran.err


def test_nothing_is_there_yet(shell: Shell) -> None:
    ran = shell.invoke("calls", "list")
    assert ran.code == 3
    assert "switchboard migrate" in ran.err
    for look in (["doctor"], ["export"], ["numbers", "list"], ["explain", "+14155550100"]):
        shell.invoke(*look)
        assert not (shell.folder / "data").exists(), look
    assert shell.invoke("migrate").out == "Migrated: empty → 0004.\n"
    assert shell.invoke("migrate").out == "Up to date (0004).\n"
    assert shell.invoke("calls", "list", "--json").out == "[]\n"
    ran = shell.invoke("calls", "show", "no[/]thing")
    assert ran.code == 1
    assert "no call no[/]thing" in ran.err
    explained = shell.invoke("explain", "+1 415 555 0100", "--json")
    assert explained.code == 0
    assert json.loads(explained.out)["decision"]["reason"] == "number is not mapped"


def test_a_call_with_nothing_running(shell: Shell) -> None:
    ran = shell.invoke("call", "+14155550100")
    assert ran.code == 3
    assert "switchboard up --sandbox" in ran.err
    mine = {
        "SWITCHBOARD_PUBLIC_URL": "https://calls.example.com",
        "SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID": "AC" + "a1" * 16,
        "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": "a-test-auth-token",
        "SWITCHBOARD_HTTP__PORT": "1",
    }
    ran = shell.invoke("call", "+14155550100", env=mine)
    assert ran.code == 3
    assert "no instance answers on http://127.0.0.1:1" in ran.err
    ran = shell.invoke("call", "0100", env=mine)
    assert ran.code == 2
    assert "write it with + and the country code" in ran.err


def test_a_mapping_file_with_mistakes(shell: Shell) -> None:
    (shell.folder / "bad.yaml").write_text(
        "agents:\n"
        "  - {name: anna}\n"
        "numbers:\n"
        '  - {number: "+14155550100", provider: twilio, agnt: anna}\n'
        "  - {number: 14155550101, provider: telnyx}\n"
        '  - {number: "+14155550102", provider: twilio, agent: nobody}\n'
    )
    ran = shell.invoke("apply", "bad.yaml")
    assert ran.code == 2
    assert [line.partition(": ")[0] for line in ran.err.splitlines()[-3:]] == [
        *("bad.yaml:4:48", "bad.yaml:5:14", "bad.yaml:6:55")
    ]
    assert "numbers[0].agnt: there is no such field: did you mean agent?" in ran.err
    assert 'numbers[1].number: write it in quotes: "+14155550101" (value 14155550101)' in ran.err
    assert "numbers[2].agent: there is no such agent: add it under agents (value nobody)" in ran.err
    (shell.folder / "odd.yaml").write_text("numbers: {a: [\n")
    ran = shell.invoke("apply", "odd.yaml")
    assert ran.code == 2
    assert "odd.yaml is not YAML" in ran.err
    (shell.folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert shell.invoke("apply", "bytes.yaml").code == 2
    ran = shell.invoke("apply", "none.yaml")
    assert ran.code == 2
    assert "none.yaml can't be read: No such file or directory" in ran.err


def test_an_agent_that_does_not_exist_changes_nothing(shell: Shell) -> None:
    (shell.folder / "ghost.yaml").write_text(
        'numbers:\n  - {number: "+14155550102", provider: twilio, agent: nobody}\n'
    )
    ran = shell.invoke("apply", "ghost.yaml", "--yes")
    assert ran.code == 2
    assert "ghost.yaml:2:55: numbers[0].agent: there is no such agent" in ran.err
    assert shell.invoke("numbers", "list", "--json").out == "[]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may not be kept from writing by modes")
def test_a_data_folder_that_can_not_be(shell: Shell) -> None:
    for command in (["migrate"], ["doctor"], ["explain", "+14155550100"]):
        ran = shell.invoke(*command, env={"SWITCHBOARD_DATA_DIR": "/proc/none"})
        assert ran.code in (1, 2), (command, ran)
        assert "/proc/none" in ran.text
    (shell.folder / "file").write_text("")
    ran = shell.invoke("migrate", env={"SWITCHBOARD_DATA_DIR": str(shell.folder / "file")})
    assert ran.code == 2


def test_doctor_with_nothing_configured(shell: Shell) -> None:
    ran = shell.invoke("doctor")
    assert ran.code == 1
    assert "4 to mend" in ran.err
    assert all(name in ran.out for name in ("settings", "database", "LiveKit", "public URL"))


def test_what_callers_write_stays_text() -> None:
    """A SIP caller chooses his name: neither markup nor terminal codes of his are obeyed."""
    name = "sip:[/dim][red]\x1b]0;owned\x07\u202e@x"
    record = CallRecord(
        call_id="0f" * 18,
        provider="twilio",
        provider_call_id="CA1",
        provider_account="AC1",
        account_id=DEFAULT_ACCOUNT,
        connection_id="",
        direction="inbound",
        from_number=name,
        to_number="+14155550100",
        state="ended",
        disposition="answered",
        agent="[bold]",
        agent_id="",
        agent_ready=True,
        reason="",
        initiated_at=1,
        ringing_at=None,
        agent_ready_at=None,
        answered_at=None,
        ended_at=None,
        duration=1.0,
    )
    event = Event(
        id="1",
        type=EventType.CALL_INITIATED,
        source="twilio",
        time=1,
        key="k",
        data=EventData(from_number=name, to_number="+1"),
    )
    screen = Console(file=io.StringIO(), width=300)
    screen.print(render.call_table([record]))
    screen.print(render.timeline([event]))
    screen.print(f"[dim]tail[/dim] {render.describe(event)}")
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("sip:[/dim][red]") == 3
    assert "[bold]" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_a_taken_port(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = shell.run("up", "--sandbox", "--port", str(port))
    assert ran.code == 2
    assert f"port {port} is taken by another program" in ran.err


def test_a_sandbox_takes_no_roles_and_no_open_host(shell: Shell) -> None:
    ran = shell.invoke("up", "--sandbox", "--roles", "ingress")
    assert ran.code == 2
    ran = shell.invoke("up", "--sandbox", env={"SWITCHBOARD_HTTP__HOST": "0.0.0.0"})
    assert ran.code == 2
    assert "loopback only" in ran.err
