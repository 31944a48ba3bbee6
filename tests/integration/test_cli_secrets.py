"""`connections` and `secrets` as a user types them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from config import Settings, load
from router.cli.accounts import OPERATOR, opened_control
from router.control import connections as connection_service
from router.control import documents, rotation
from router.control.context import Control
from router.events.types import CONNECTIONS_TOPIC
from router.secrets import FORMER_FILE, KEY_FILE
from router.storage import outbox
from router.storage.schema import connections as rows
from router.vault import Vault
from tests.support.cli import Shell

SID = "AC" + "c3" * 16
TOKEN = "the auth token of acme"
OLD, NEW = "ab" * 32, "cd" * 32


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def answer(shell: Shell, *args: str, code: int = 0, stdin: str | None = None) -> Any:
    """What a command prints as JSON."""
    ran = shell.invoke(*args, "--json", stdin=stdin)
    assert ran.code == code, ran.text
    assert TOKEN not in ran.text
    return json.loads(ran.out)


def made(shell: Shell, account: str = "default") -> str:
    options = ("--provider-account", SID, "--account", account)
    given = json.dumps({"auth_token": TOKEN})
    return str(answer(shell, "connections", "create", "twilio", *options, stdin=given)["id"])


def settings_of(shell: Shell) -> Settings:
    keys = {
        name.removeprefix("SWITCHBOARD_").lower(): value.split(",") if name[-1] == "S" else value
        for name, value in shell.env.items()
    }
    return load(overrides={"data_dir": str(shell.folder / "data"), **keys})


def with_control(shell: Shell, work: Any) -> Any:
    async def whole() -> Any:
        async with opened_control(settings_of(shell), changes=True) as control:
            return await work(control)

    return asyncio.run(whole())


def opened(shell: Shell, connection_id: str) -> str:
    async def work(control: Control) -> str:
        found = await connection_service.credentials(control, OPERATOR, connection_id, "twilio")
        assert found is not None
        return found.secrets["auth_token"]

    return str(with_control(shell, work))


class TestConnections:
    def test_credentials_come_from_stdin_and_are_never_shown(self, shell: Shell) -> None:
        answer(shell, "accounts", "create", "acme")
        one = made(shell, "acme")
        (found,) = answer(shell, "connections", "list", "--account", "acme")
        assert (found["id"], found["masked"]) == (one, {"auth_token": "…acme"})
        assert answer(shell, "connections", "list") == []
        shown = shell.invoke("connections", "list", "--account", "acme")
        assert "…acme" in shown.out
        refused = shell.invoke("connections", "delete", one)  # of account default
        assert (refused.code, "no such connection" in refused.err) == (1, True)
        assert shell.invoke("connections", "delete", one, "--account", "acme").code == 0
        assert answer(shell, "connections", "list", "--account", "acme") == []

    @pytest.mark.parametrize("given", ["", "{", "[]", '{"auth_token": 1}', '{"auth_token": ""}'])
    def test_what_is_no_credential_is_said(self, shell: Shell, given: str) -> None:
        ran = shell.invoke(
            "connections", "create", "twilio", "--provider-account", SID, stdin=given
        )
        assert ran.code == 2
        assert "stdin" in ran.err or "auth_token" in ran.err

    def test_an_account_that_is_not_there(self, shell: Shell) -> None:
        made(shell)
        assert shell.invoke("connections", "list", "--account", "nobody").code == 1


class TestRotation:
    def test_the_data_folders_key_is_replaced_and_all_is_sealed_anew(self, shell: Shell) -> None:
        one = made(shell)
        body = {"api_key": "a key of some voice"}

        async def document(control: Control) -> str:
            return (await documents.create(control, OPERATOR, "voice", body)).id

        voice = with_control(shell, document)
        data = shell.folder / "data"
        before = (data / KEY_FILE).read_text()
        done = answer(shell, "secrets", "rotate")
        assert done["key"] == "new"
        counted = {name: count for name, count in done["sealed"].items() if count}
        assert counted == {"connections": 1, "documents": 1}
        assert done["unreadable"] == []
        assert (data / KEY_FILE).read_text() != before
        assert before in (data / FORMER_FILE).read_text()
        (data / FORMER_FILE).unlink()  # nothing needs it any more
        assert opened(shell, one) == TOKEN

        async def revealed(control: Control) -> Any:
            return (await documents.get(control, OPERATOR, "voice", voice, secrets=True)).body

        assert with_control(shell, revealed) == body
        audit = answer(shell, "audit")
        assert audit[0]["action"] == "secrets.rotated"

    def test_every_instance_is_told_the_connections_anew(self, shell: Shell) -> None:
        made(shell)
        answer(shell, "secrets", "rotate")

        async def told(control: Control) -> list[int]:
            entries = await outbox.pending(control.database, 10)
            return [int(e.headers["rev"]) for e in entries if e.topic == CONNECTIONS_TOPIC]

        assert with_control(shell, told) == [1, 2]

    def test_one_that_was_stopped_is_finished_before_another_begins(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = made(shell), made(shell)
        with monkeypatch.context() as patch:
            stopped = rotation._written
            calls: list[str] = []

            async def once(*args: Any) -> bool:
                calls.append(args[2])
                if len(calls) > 1:
                    raise KeyboardInterrupt
                return await stopped(*args)

            patch.setattr(rotation, "_written", once)
            assert shell.invoke("secrets", "rotate").code != 0
        key = (shell.folder / "data" / KEY_FILE).read_text()
        assert {opened(shell, one), opened(shell, two)} == {TOKEN}
        done = answer(shell, "secrets", "rotate")
        assert (done["key"], done["sealed"]["connections"]) == ("kept", 1)
        assert (shell.folder / "data" / KEY_FILE).read_text() == key
        assert answer(shell, "secrets", "rotate")["key"] == "new"
        assert {opened(shell, one), opened(shell, two)} == {TOKEN}

    def test_keys_of_the_settings_are_rotated_by_their_owner(self, shell: Shell) -> None:
        shell.env["SWITCHBOARD_SECRET_KEY"] = OLD
        one = made(shell)
        shell.env["SWITCHBOARD_SECRET_KEY"] = NEW
        lost = answer(shell, "secrets", "rotate", code=1)
        assert lost["unreadable"] == [f"connections {one}"]
        shell.env["SWITCHBOARD_PREVIOUS_SECRET_KEYS"] = OLD
        done = answer(shell, "secrets", "rotate")
        assert (done["key"], done["sealed"]["connections"]) == ("settings", 1)
        again = answer(shell, "secrets", "rotate")
        assert set(again["sealed"].values()) == {0}
        del shell.env["SWITCHBOARD_PREVIOUS_SECRET_KEYS"]
        assert opened(shell, one) == TOKEN
        assert not (shell.folder / "data" / KEY_FILE).exists()

        async def sealed(control: Control) -> bytes:
            async with control.database.read() as connection:
                return bytes((await connection.execute(select(rows.c.sealed))).scalar_one())

        assert Vault([bytes.fromhex(NEW)]).is_current(with_control(shell, sealed))

    def test_it_says_what_it_did_and_what_is_left_to_do(self, shell: Shell) -> None:
        made(shell)
        ran = shell.invoke("secrets", "rotate")
        assert "connections 1" in ran.out
        assert "Restart" in ran.err
