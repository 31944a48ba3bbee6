"""`apply`, `export` and `numbers remove` as a user types them, with a stand-in for the instance."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import pytest
from typing_extensions import override

from router.cli import waiting
from tests.support.cli import PATIENCE, Ran, Shell

A, B, C = "+14155550100", "+14155550101", "+14155550102"
MAPPING = f"""\
agents:
  - {{name: anna, metadata: {{greeting: "[red]Hello"}}}}
  - {{name: bob}}
numbers:
  - {{number: "{A}", provider: twilio, agent: anna, fallback: "+14155550199"}}
  - {{number: "{B}", provider: twilio, agent: bob}}
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"SWITCHBOARD_HTTP__PORT": "1"})


def apply(shell: Shell, text: str, *more: str) -> Ran:
    (shell.folder / "m.yaml").write_text(text)
    return shell.invoke("apply", "m.yaml", *more)


def numbers_of(shell: Shell) -> list[str]:
    return [each["number"] for each in json.loads(shell.invoke("numbers", "list", "--json").out)]


def many(count: int) -> str:
    lines = (f'  - {{number: "+1415555{n:04}", provider: twilio}}\n' for n in range(count))
    return "agents: []\nnumbers:\n" + "".join(lines)


class TestPlan:
    def test_a_look_makes_nothing(self, shell: Shell) -> None:
        ran = apply(shell, MAPPING, "--dry-run", "--json")
        assert ran.code == 2
        assert len(json.loads(ran.out)["changes"]) > 1
        assert not (shell.folder / "data").exists()
        (shell.folder / "data").mkdir()
        apply(shell, MAPPING, "--dry-run")
        assert list((shell.folder / "data").iterdir()) == []

    def test_nothing_changes_before_somebody_agreed(self, shell: Shell) -> None:
        for more in ((), ("--json",), ("--dry-run",), ("--dry-run", "--yes")):
            ran = apply(shell, MAPPING, *more)
            assert ran.code == 2, ran
            assert A in ran.out
            assert ("--yes" in ran.err) is ("--dry-run" not in more)
        assert numbers_of(shell) == []
        assert apply(shell, MAPPING, "--yes").code == 0
        assert numbers_of(shell) == [A, B]
        assert apply(shell, MAPPING, "--dry-run").code == 0
        again = apply(shell, MAPPING)
        assert again.code == 0
        assert "Nothing to change" in again.out
        assert "no instance runs on" in again.out

    def test_it_shows_what_differs(self, shell: Shell) -> None:
        first = apply(shell, MAPPING, "--yes")
        assert f"+ number {A}: nothing → anna, else +14155550199" in first.out
        assert "Plan: 2 numbers to add, 2 agents to add." in first.out
        changed = MAPPING.replace("[red]Hello", "Hi").replace(
            "name: bob}", "name: bob, status: paused}"
        )
        changed = changed.replace("name: anna", "name: anna, livekit_agent_name: anna-2")
        changed = changed.replace(f'"{B}", provider: twilio', f'"{B}", provider: telnyx')
        ran = apply(shell, changed, "--dry-run")
        what = 'worker anna → anna-2; metadata greeting "[red]Hello" → "Hi"'
        assert ran.out.splitlines() == [
            f"~ agent  anna: {what}",
            "~ agent  bob: status deployed → paused",
            f"~ number {A}: {what}",
            f"~ number {B}: bob → no agent; provider twilio → telnyx",
            "Plan: 2 numbers to change, 2 agents to change.",
        ]

    def test_a_long_one_is_shortened_and_its_json_is_not(self, shell: Shell) -> None:
        ran = apply(shell, many(100), "--dry-run")
        assert "… and 70 more; --json shows all" in ran.out
        assert "Plan: 100 numbers to add." in ran.out
        told = json.loads(apply(shell, many(100), "--yes", "--json").out)
        assert (told["holds"], told["applied"], len(told["changes"])) == (None, True, 100)
        assert told["version"] >= 1
        one = told["changes"][0]
        assert (one["kind"], one["action"], one["id"]) == ("number", "add", "+14155550000")
        assert (one["before"], one["after"]["provider"]) == (None, "twilio")
        again = json.loads(apply(shell, many(100), "--json").out)
        assert (again["changes"], again["applied"]) == ([], False)

    @pytest.mark.parametrize(("answer", "code", "there"), [("y", 0, [A, B]), ("n", 1, [])])
    def test_a_person_is_asked(
        self, shell: Shell, answer: str, code: int, there: Sequence[str]
    ) -> None:
        (shell.folder / "m.yaml").write_text(MAPPING)
        ours, theirs = os.openpty()
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "router", "apply", "m.yaml"],
            cwd=shell.folder,
            env=shell.environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=PATIENCE,
        )
        os.close(theirs)
        os.close(ours)
        assert done.returncode == code
        assert b"Plan: 2 numbers to add" in done.stdout
        assert numbers_of(shell) == there


class TestPrune:
    def test_an_empty_list_removes_nothing_by_accident(self, shell: Shell) -> None:
        apply(shell, many(100), "--yes")
        empty = "agents: []\nnumbers: []\n"
        for more in (("--prune",), ("--prune=some",), ("--prune", "--json")):
            ran = apply(shell, empty, *more, "--yes")
            assert ran.code == 2
            assert "100 of 100 numbers; --prune=all" in ran.err
        assert len(numbers_of(shell)) == 100
        assert apply(shell, empty, "--prune=all").code == 2  # nobody agreed
        assert apply(shell, empty, "--prune=all", "--yes").code == 0
        assert numbers_of(shell) == []

    def test_a_tenth_goes_and_no_more(self, shell: Shell) -> None:
        apply(shell, many(100), "--yes")
        assert apply(shell, many(89), "--prune", "--yes").code == 2
        (shell.folder / "m.yaml").write_text(many(90))
        ran = shell.invoke("apply", "--prune", "m.yaml", "--yes")  # no value of the option
        assert ran.code == 0
        assert "Plan: 10 numbers to remove." in ran.out
        assert len(numbers_of(shell)) == 90

    def test_without_it_what_is_not_in_the_file_stays(self, shell: Shell) -> None:
        apply(shell, many(3), "--yes")
        assert apply(shell, "numbers: []\n", "--yes").code == 0
        assert len(numbers_of(shell)) == 3

    def test_all_agents_are_everything_too(self, shell: Shell) -> None:
        apply(shell, "agents: [{name: anna}]\n", "--yes")
        assert apply(shell, "agents: []\n", "--prune", "--yes").code == 2


class TestBack:
    def test_an_export_changes_nothing_and_undoes_everything(self, shell: Shell) -> None:
        apply(shell, MAPPING, "--yes")
        assert shell.invoke("export", "as-it-was.yaml").code == 0
        assert (shell.folder / "as-it-was.yaml").stat().st_mode & 0o777 == 0o600
        was = shell.invoke("export").out
        assert was == (shell.folder / "as-it-was.yaml").read_text()
        refused = shell.invoke("export", "as-it-was.yaml")
        assert refused.code == 2
        assert "--force" in refused.err
        same = shell.invoke("apply", "as-it-was.yaml", "--prune")
        assert (same.code, "Nothing to change" in same.out) == (0, True)
        changed = apply(shell, many(2), "--prune=all", "--yes")
        back = changed.out.rpartition("As it was before: switchboard ")[2].split()
        assert shell.invoke(*back, "--yes").code == 0
        assert shell.invoke("export").out == was

    def test_what_was_is_kept_for_its_owner_alone(self, shell: Shell) -> None:
        for count in range(1, 4):
            apply(shell, many(count), "--yes")
        folder = shell.folder / "data" / "history"
        assert folder.stat().st_mode & 0o777 == 0o700
        kept = sorted(folder.iterdir())
        assert [each.stat().st_mode & 0o777 for each in kept] == [0o600] * 3
        assert [each.read_text().count("number:") for each in kept] == [0, 1, 2]

    def test_numbers_are_removed_one_by_one(self, shell: Shell) -> None:
        apply(shell, MAPPING, "--yes")
        assert shell.invoke("numbers", "remove", A).code == 2
        missing = shell.invoke("numbers", "remove", A, C, "--yes")
        assert missing.code == 1
        assert f"not mapped: {C}; nothing was changed" in missing.err
        assert numbers_of(shell) == [A, B]
        ran = shell.invoke("numbers", "remove", "+1 415 555 0100", A, "--yes")
        assert ran.code == 0
        assert f"- number {A}: anna, else +14155550199 → nothing" in ran.out
        assert numbers_of(shell) == [B]
        assert shell.invoke("numbers", "remove", "0155", "--yes").code == 2


def test_a_loop_through_what_is_mapped_already(shell: Shell) -> None:
    chain = 'numbers: [{{number: "{0}", provider: twilio, fallback: "{1}"}}]\n'
    apply(shell, chain.format(A, B), "--yes")
    apply(shell, chain.format(B, C), "--yes")
    ran = apply(shell, chain.format(C, A), "--yes")
    assert ran.code == 2
    assert f"{C} (line 1) → {A} (mapped already) → {B} (mapped already) → {C}" in ran.err
    assert numbers_of(shell) == [A, B]


def test_mistakes_show_without_a_database(shell: Shell) -> None:
    away = {"SWITCHBOARD_DATABASE__URL": "postgresql+psycopg://127.0.0.1:1/none"}
    (shell.folder / "m.yaml").write_text("agents: [{nam: x}]\n")
    assert shell.invoke("apply", "m.yaml", env=away).code == 2
    (shell.folder / "m.yaml").write_text(MAPPING)
    assert shell.invoke("apply", "m.yaml", env=away).code == 3


class _Instance(BaseHTTPRequestHandler):
    """Says of itself what the test wants, the last answer for ever."""

    answers: list[dict[str, object]]
    asked = threading.Event()

    def do_GET(self) -> None:
        type(self).asked.set()
        answers = type(self).answers
        body = json.dumps(answers.pop(0) if len(answers) > 1 else answers[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def instance(*answers: dict[str, object]) -> Iterator[dict[str, str]]:
    """An instance that answers these of /readyz; what a command needs to find it."""
    _Instance.answers = list(answers)
    _Instance.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Instance)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield {"SWITCHBOARD_HTTP__PORT": str(server.server_port)}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ready(*roles: str, numbers: int = 0, fingerprint: str = "") -> dict[str, object]:
    routes = {"fingerprint": fingerprint, "numbers": numbers, "version": 1}
    return {"roles": ["ingress", *roles], "routes": routes}


class TestWaiting:
    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "_PATIENCE", 0.3)
        monkeypatch.setattr(waiting, "_LOOK", 0.05)

    def test_as_long_as_it_moves(self, shell: Shell) -> None:
        apply(shell, MAPPING, "--yes")
        with instance(*(ready("relay", numbers=n) for n in range(12))) as here:
            (shell.folder / "m.yaml").write_text(MAPPING)
            ran = shell.invoke("apply", "m.yaml", env=here)
        assert ran.code == 0
        assert "nothing has moved for 0.3 s" in ran.out
        assert "has 11 of 2 numbers" in ran.out  # the last that it said of itself

    def test_where_it_stands_and_the_likely_cause(self, shell: Shell) -> None:
        (shell.folder / "m.yaml").write_text(MAPPING)
        with instance(ready("dispatch", numbers=1)) as here:
            ran = shell.invoke("apply", "m.yaml", "--yes", env=here)
            assert "has 1 of 2 numbers" in ran.out
            assert "is a process with the role relay running" in ran.out
            told = json.loads(shell.invoke("apply", "m.yaml", "--json", env=here).out)
            assert told["holds"] is False
        with instance(ready("relay")) as here:
            ran = shell.invoke("apply", "m.yaml", env=here)
            assert "does not publish them" in ran.out
        with instance({"roles": ["calls"]}) as here:
            ran = shell.invoke("apply", "m.yaml", env=here)
            assert "runs calls: no ingress" in ran.out
        with instance({"hello": "world"}) as here:
            assert "no instance runs on" in shell.invoke("apply", "m.yaml", env=here).out

    def test_not_at_all(self, shell: Shell) -> None:
        (shell.folder / "m.yaml").write_text(MAPPING)
        with instance(ready("relay")) as here:
            ran = shell.invoke("apply", "m.yaml", "--yes", "--no-wait", env=here)
        assert "not waited until it holds" in ran.out
        assert numbers_of(shell) == [A, B]


def test_ctrl_c_ends_the_waiting_alone(shell: Shell) -> None:
    (shell.folder / "m.yaml").write_text(MAPPING)
    with instance(ready("relay")) as here:
        shell.env |= here
        with shell.start("apply", "m.yaml", "--yes", until="Plan: ") as started:
            assert _Instance.asked.wait(PATIENCE)
            started.end(signal.SIGINT)
    assert numbers_of(shell) == [A, B]
    assert started.process.returncode == 130
    assert "not waited until it holds" in started.text
    assert "Traceback" not in started.text


class TestAccounts:
    ACMES = (
        "agents: [{name: anna, livekit_agent_name: acmes}]\n"
        f'numbers: [{{number: "{C}", provider: twilio, agent: anna}}]\n'
    )

    @pytest.fixture
    def two(self, shell: Shell) -> Shell:
        """Accounts `default` and `acme`, each with a mapping."""
        assert apply(shell, MAPPING, "--yes").code == 0
        assert shell.invoke("accounts", "create", "acme").code == 0
        assert apply(shell, self.ACMES, "--yes", "--account", "acme").code == 0
        return shell

    def test_each_has_a_mapping_of_its_own(self, two: Shell) -> None:
        assert numbers_of(two) == [A, B]
        (number,) = json.loads(two.invoke("numbers", "list", "--json", "--account", "acme").out)
        (agent,) = json.loads(two.invoke("agents", "list", "--json", "--account", "acme").out)
        assert (number["number"], number["agent"], agent["livekit_agent_name"]) == (
            C,
            "anna",
            "acmes",
        )
        assert number["agent_id"] == agent["id"]
        agents = json.loads(two.invoke("agents", "list", "--json").out)
        assert [each["name"] for each in agents] == ["anna", "bob"]
        ids = {each["id"] for each in (*agents, agent, number)}
        assert len({str(UUID(each)) for each in ids}) == 4
        assert C in two.invoke("numbers", "list", "--account", "acme").out
        assert "acmes" in two.invoke("agents", "list", "--account", "acme").out
        assert C not in two.invoke("export").out
        assert A not in two.invoke("export", "--account", "acme").out

    def test_prune_never_touches_another_account(self, two: Shell) -> None:
        before = two.invoke("export").out
        ran = apply(two, "agents: []\nnumbers: []\n", "--prune=all", "--yes", "--account", "acme")
        assert ran.code == 0
        assert two.invoke("export").out == before
        assert json.loads(two.invoke("numbers", "list", "--json", "--account", "acme").out) == []
        back = ran.out.rpartition("As it was before: switchboard ")[2].split()
        assert back[-2:] == ["--account", "acme"]
        assert two.invoke(*back, "--yes").code == 0
        assert C in two.invoke("export", "--account", "acme").out
        assert two.invoke("export").out == before

    def test_a_number_of_another_account_is_neither_taken_nor_removed(self, two: Shell) -> None:
        for more in ((), ("--prune=all",), ("--dry-run",)):
            ran = apply(two, self.ACMES, "--yes", *more)
            assert ran.code == 2
            assert "held by another account" in ran.err
            assert "acme" not in ran.err
        removed = two.invoke("numbers", "remove", C, "--yes")
        assert (removed.code, f"not mapped: {C}" in removed.err) == (1, True)
        assert C in two.invoke("export", "--account", "acme").out

    def test_a_number_is_explained_whosesoever_it_is(self, two: Shell) -> None:
        told = json.loads(two.invoke("explain", C, "--json").out)
        assert (told["account"], told["decision"]["livekit_agent_name"]) == ("acme", "acmes")
        assert told["decision"]["agent_id"] == told["route"]["targets"][0]["agent_id"]
        assert "acme" in two.invoke("explain", C).out
        assert json.loads(two.invoke("explain", A, "--json").out)["account"] == "default"
        assert json.loads(two.invoke("explain", "+14155559999", "--json").out)["account"] == ""

    @pytest.mark.parametrize(
        "command",
        [
            ("apply", "m.yaml", "--yes"),
            ("apply", "m.yaml", "--dry-run"),
            ("export",),
            ("numbers", "list"),
            ("numbers", "remove", A),
            ("agents", "list"),
            ("calls", "list"),
            ("calls", "show", "5f"),
        ],
        ids=" ".join,
    )
    def test_an_account_that_is_not_there(self, two: Shell, command: tuple[str, ...]) -> None:
        ran = two.invoke(*command, "--account", "acne")
        assert ran.code == 2
        assert "there is no account 'acne'" in ran.err
        assert "switchboard accounts list" in ran.err
        assert "Traceback" not in ran.err
