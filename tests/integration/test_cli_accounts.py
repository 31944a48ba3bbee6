"""`accounts`, `tokens` and `audit` as a user types them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from router.control.tokens import PATTERN
from tests.support.cli import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def answer(shell: Shell, *args: str) -> Any:
    """What a command prints as JSON; it ends well."""
    ran = shell.invoke(*args, "--json")
    assert ran.code == 0, ran.text
    return json.loads(ran.out)


class TestAccounts:
    def test_the_first_command_on_a_machine(self, shell: Shell) -> None:
        ran = shell.run("accounts", "create", "acme", "--numbers", "5", "--calls", "10", "--json")
        assert ran.code == 0, ran.text
        made = json.loads(ran.out)
        plan = {"numbers": 5, "calls": 10, "minutes": None, "shared_carriers": True}
        assert (made["name"], made["plan"], made["worker"]) == ("acme", plan, "")
        shown = answer(shell, "accounts", "show", made["id"])
        used = {"minutes": 0.0, "minutes_limit": None, "calls": 0}
        assert shown == {**made, "usage": {**used, "numbers": 0, "numbers_limit": 5}}
        assert answer(shell, "accounts", "show", "acme") == shown
        listed = answer(shell, "accounts", "list")
        assert [each["name"] for each in listed] == ["acme", "default"]

    def test_a_look_makes_nothing(self, shell: Shell) -> None:
        for command in (
            ["accounts", "list"],
            ["accounts", "show", "default"],
            ["tokens", "list"],
            ["audit"],
        ):
            ran = shell.invoke(*command)
            assert ran.code == 3
            assert "there is no database" in ran.err
        assert not (shell.folder / "data").exists()

    def test_only_what_is_given_changes(self, shell: Shell) -> None:
        answer(shell, "accounts", "create", "acme", "--numbers", "5", "--worker", "anna")
        changed = answer(
            shell, "accounts", "update", "acme", "--minutes", "0", "--own-carriers", "--name", "a"
        )
        assert (changed["name"], changed["worker"]) == ("a", "anna")
        limits = {"numbers": 5, "calls": None, "minutes": 0, "shared_carriers": False}
        assert changed["plan"] == limits
        changed = answer(shell, "accounts", "update", "a", "--numbers", "none", "--worker", "")
        assert (changed["plan"]["numbers"], changed["worker"]) == (None, "")
        shown = shell.invoke("accounts", "show", "a").out
        for words in ("no limit", "its own alone", "each agent's own name", "minutes this month"):
            assert words in shown
        assert "acme" not in shell.invoke("accounts", "list").out

    @pytest.mark.parametrize(
        ("args", "code", "words"),
        [
            (["create", "default"], 1, "there is an account default already"),
            (["create", "A b"], 2, "name: must be 1 to 64 lower-case"),
            (["create", "a\udcff"], 2, "name: must be 1 to 64 lower-case"),
            (["create", "a", "--numbers", "-1"], 2, "--numbers"),
            (["create", "a", "--calls", "many"], 2, "--calls"),
            (["create", "a", "--minutes", "9999999999"], 2, "plan.minutes: must be 0 to"),
            (["create", "a", "--worker", "a\tb"], 2, "worker: has a character"),
            (["create", ""], 2, "name: must be"),
            (["show", "nobody"], 1, "there is no account nobody"),
            (["update", "nobody", "--calls", "1"], 1, "there is no account nobody"),
            (["update", "default", "--name", "other"], 1, "default keeps its name"),
        ],
    )
    def test_a_mistake_is_named(self, shell: Shell, args: list[str], code: int, words: str) -> None:
        answer(shell, "accounts", "update", "default")
        ran = shell.invoke("accounts", *args)
        assert (ran.code, ran.out) == (code, "")
        assert words in " ".join(ran.err.split())
        assert len(answer(shell, "accounts", "list")) == 1


class TestTokens:
    def test_a_token_is_printed_once(self, shell: Shell) -> None:
        account = answer(shell, "accounts", "create", "acme")
        scopes = ["numbers:write", "agents:write"]
        made = answer(
            shell,
            *("tokens", "create", "--account", "acme", "--label", "ci"),
            *(word for scope in scopes for word in ("--scope", scope)),
        )
        assert re.fullmatch(PATTERN, made["token"])
        assert made["account_id"] == account["id"]
        assert (made["scopes"], made["label"], made["expires_at"]) == (scopes, "ci", None)
        secret = made.pop("token")
        assert answer(shell, "tokens", "show", made["id"]) == made
        assert answer(shell, "tokens", "list", "--account", "acme") == [made]
        for command in (["tokens", "list"], ["tokens", "show", made["id"]], ["audit"]):
            assert secret[3:-4] not in shell.invoke(*command).text
        for file in (shell.folder / "data").rglob("*"):
            assert file.is_dir() or secret.encode() not in file.read_bytes()

    def test_alone_on_stdout_for_a_script(self, shell: Shell) -> None:
        ran = shell.invoke("tokens", "create", "--scope", "admin", "--days", "1.5")
        assert ran.code == 0
        assert re.fullmatch(PATTERN + "\n", ran.out)
        assert "switchboard tokens revoke" in ran.err
        (made,) = answer(shell, "tokens", "list")
        assert made["expires_at"] - made["created_at"] == 36 * 3600 * 10**6
        listed = shell.invoke("tokens", "list").out
        assert "valid until" in listed
        assert "default" in listed

    def test_revoking_twice_is_once(self, shell: Shell) -> None:
        made = answer(shell, "tokens", "create", "--scope", "calls:read")
        revoked = answer(shell, "tokens", "revoke", made["id"])
        assert revoked["revoked_at"] >= made["created_at"]
        assert answer(shell, "tokens", "revoke", made["id"].upper()) == revoked
        assert "revoked" in shell.invoke("tokens", "list").out

    @pytest.mark.parametrize(
        ("args", "code", "words"),
        [
            (["create"], 2, "scopes: must name at least one of"),
            (["create", "--scope", "numbers"], 2, "there are numbers:read"),
            (["create", "--scope", "admin", "--account", "nobody"], 1, "no account nobody"),
            (["create", "--scope", "admin", "--days", "0"], 2, "--days"),
            (["create", "--scope", "admin", "--days", "nan"], 2, "--days"),
            (["create", "--scope", "admin", "--label", "a" * 201], 2, "label: has 201 characters"),
            (["show", "7"], 1, "there is no token with this id"),
            (["revoke", "00000000-0000-4000-8000-000000000000"], 1, "there is no token"),
            (["list", "--account", "nobody"], 1, "no account nobody"),
        ],
    )
    def test_a_mistake_is_named(self, shell: Shell, args: list[str], code: int, words: str) -> None:
        answer(shell, "accounts", "update", "default")
        ran = shell.invoke("tokens", *args)
        assert (ran.code, ran.out) == (code, "")
        assert words in " ".join(ran.err.split())
        assert answer(shell, "tokens", "list") == []


def test_the_audit_says_who_changed_what(shell: Shell) -> None:
    acme = answer(shell, "accounts", "create", "acme", "--numbers", "1")
    token = answer(shell, "tokens", "create", "--scope", "admin")
    answer(shell, "accounts", "update", "acme", "--numbers", "2")
    trail = answer(shell, "audit")
    assert [row["action"] for row in trail] == [
        "account.updated",
        "token.created",
        "account.created",
    ]
    assert {row["actor"] for row in trail} == {"command line"}
    of_acme = answer(shell, "audit", "--account", "acme")
    assert [row["object_id"] for row in of_acme] == [acme["id"], acme["id"]]
    assert [row["action"] for row in answer(shell, "audit", "--object", token["id"])] == [
        "token.created"
    ]
    assert len(answer(shell, "audit", "--limit", "1")) == 1
    assert "numbers: 1 → 2" in shell.invoke("audit").out
    assert shell.invoke("audit", "--account", "nobody").code == 1
    assert answer(shell, "audit", "--object", "a\udcff") == []
