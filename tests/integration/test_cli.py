"""The commands as a user types them, without anything running: help, mistakes, empty places."""

import io
import json
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from router.cli import render
from router.events.call import CallRecord
from router.events.model import Event, EventData
from router.events.types import EventType
from tests.support.cli import Shell

COMMANDS = [
    ["up"],
    ["call"],
    ["explain"],
    ["tail"],
    ["apply"],
    ["doctor"],
    ["migrate"],
    ["calls"],
    ["calls", "list"],
    ["calls", "show"],
    ["agents"],
    ["agents", "list"],
    ["numbers"],
    ["numbers", "list"],
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


def test_each_command_helps(shell: Shell) -> None:
    for command in COMMANDS:
        helped = shell.invoke(*command, "--help")
        assert helped.code == 0, command
        assert "Usage: " in helped.out


def test_wrong_settings_are_a_line_each(shell: Shell) -> None:
    ran = shell.run("up", env={"SWITCHBOARD_HTTP__PORT": "abc", "SWITCHBOARD_LOG__LEVEL": "loud"})
    assert ran.code == 2
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["http.port", "log.level"]
    ran = shell.invoke("up", "--roles", "ingress,cook")
    assert (ran.code, ran.err.partition(":")[0]) == (2, "roles.1")
    ran = shell.invoke("up", env={"SWITCHBOARD_LIVEKIT__API_KY": "x"})
    assert ran.code == 2
    assert "livekit.api_ky: there is no such setting" in ran.err


def test_missing_settings_are_a_line_each(shell: Shell) -> None:
    ran = shell.invoke("up")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 7
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
    assert shell.invoke("migrate").out == "Migrated: empty → 0002.\n"
    assert shell.invoke("migrate").out == "Up to date (0002).\n"
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
        "SWITCHBOARD_PROVIDERS__TWILIO__AUTH_TOKENS": "token",
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
    assert "bad.yaml:4: numbers[0].agnt: there is no such field" in ran.err
    assert 'bad.yaml:5: numbers[1].number: write it in quotes: "+14155550100"' in ran.err
    (shell.folder / "odd.yaml").write_text("numbers: {a: [\n")
    ran = shell.invoke("apply", "odd.yaml")
    assert ran.code == 2
    assert "odd.yaml is not YAML" in ran.err
    (shell.folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert shell.invoke("apply", "bytes.yaml").code == 2
    ran = shell.invoke("apply", "none.yaml")
    assert (ran.code, ran.err) == (2, "none.yaml can't be read: No such file or directory\n")


def test_an_agent_that_does_not_exist_changes_nothing(shell: Shell) -> None:
    (shell.folder / "ghost.yaml").write_text(
        'numbers:\n  - {number: "+14155550102", provider: twilio, agent: nobody}\n'
    )
    ran = shell.invoke("apply", "ghost.yaml")
    assert ran.code == 2
    assert "nobody" in ran.err
    assert shell.invoke("numbers", "list", "--json").out == "[]\n"


def test_apply_without_an_instance(shell: Shell) -> None:
    (shell.folder / "good.yaml").write_text(
        "agents: [{name: anna}]\n"
        'numbers: [{number: "+14155550102", provider: twilio, agent: anna}]\n'
    )
    quiet = {"SWITCHBOARD_HTTP__PORT": "1"}
    ran = shell.invoke("apply", "good.yaml", env=quiet)
    assert ran.code == 0
    assert "no instance runs on" in ran.out
    again = shell.invoke("apply", "good.yaml", env=quiet)
    assert "Nothing to change" in again.out


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
        account="AC1",
        direction="inbound",
        from_number=name,
        to_number="+14155550100",
        state="ended",
        disposition="answered",
        agent="[bold]",
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
