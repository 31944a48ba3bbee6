"""Which instance a command speaks to: the files in the data folder, and what the settings say."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.cli.context import Target, environment_fingerprint, target_of
from router.cli.instance import Instance, StandIns, claimed, is_of_sandbox, running
from router.errors import ConfigError

HERE = ("127.0.0.1", 8090)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("SWITCHBOARD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SWITCHBOARD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@contextmanager
def node(folder: Path, port: int, *roles: str, version: str = "0.1.0") -> Iterator[None]:
    with claimed(folder, sandbox=False) as claim:
        claim.publish(Instance(os.getpid(), "127.0.0.1", port, version, roles or ("ingress",)))
        yield


@contextmanager
def sandbox(folder: Path) -> Iterator[None]:
    with claimed(folder, sandbox=True) as claim:
        overrides = {"data_dir": str(folder / "sandbox"), "http": {"port": 8090}}
        stand_ins = StandIns(overrides, {}, "token", environment_fingerprint())
        claim.publish(Instance(os.getpid(), *HERE, "0.1.0", ("ingress",), stand_ins))
        yield


def aim(config: Path | None = None) -> Target:
    return target_of(config)


def test_a_node_is_found_on_the_port_where_it_listens(folder: Path) -> None:
    source = f"(no settings file, data folder {folder})"
    assert aim().words == f"no instance runs here {source}"
    with node(folder, 8123):
        target = aim()
        assert target.settings.http.port == 8123
        assert target.words == f"instance on http://127.0.0.1:8123 {source}"
        assert (folder / "instance-0.json").stat().st_mode & 0o777 == 0o600
    assert running(folder) == []
    assert aim().settings.http.port == 8080


def test_of_several_nodes_the_one_that_takes_webhooks(folder: Path) -> None:
    with node(folder, 8201, "calls"), node(folder, 8202, "ingress"), node(folder, 8203, "ingress"):
        target = aim()
        assert target.settings.http.port == 8202
        assert "beside it http://127.0.0.1:8201, http://127.0.0.1:8203" in target.words


def test_the_node_that_was_asked_for_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHBOARD_HTTP__PORT", "8203")
    with node(folder, 8202, "ingress"), node(folder, 8203, "calls"):
        assert aim().settings.http.port == 8203


def test_a_node_of_another_version_is_told(folder: Path) -> None:
    with node(folder, 8201, version="9.9"):
        assert "it is version 9.9, this command 0.1.0" in aim().words


def test_a_sandbox_is_meant_where_no_real_settings_are_given(folder: Path) -> None:
    with sandbox(folder):
        target = aim()
        assert target.stand_ins is not None
        assert target.settings.data_dir == folder / "sandbox"
        assert target.words == (
            f"sandbox on http://127.0.0.1:8090 (data folder {folder / 'sandbox'})"
        )
    assert aim().stand_ins is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SWITCHBOARD_PUBLIC_URL", "https://calls.example.com"),
        ("SWITCHBOARD_LIVEKIT__URL", "wss://x.livekit.cloud"),
        ("SWITCHBOARD_PROVIDERS__TWILIO__ACCOUNT_SID", "AC" + "5" * 32),
        ("SWITCHBOARD_DATABASE__URL", "postgresql+psycopg://127.0.0.1:1/production"),
        ("SWITCHBOARD_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ],
)
def test_real_settings_never_lead_to_the_sandbox(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with sandbox(folder):
        monkeypatch.setenv(name, value)
        target = aim()
        assert target.stand_ins is None
        assert target.settings.data_dir == folder
        assert target.words.endswith(
            f"; not the sandbox on http://127.0.0.1:8090, because of {name}"
        )


def test_a_settings_file_never_leads_to_the_sandbox(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node.toml").write_text("[http]\nport = 8100\n")
    with sandbox(folder):
        target = aim(tmp_path / "node.toml")
        assert target.stand_ins is None
        assert f"(settings {tmp_path / 'node.toml'}, data folder {folder})" in target.words
        assert target.words.endswith("because of --config")
        monkeypatch.setenv("SWITCHBOARD_CONFIG", str(tmp_path / "node.toml"))
        assert aim().words.endswith("because of SWITCHBOARD_CONFIG")


def test_a_sandbox_that_was_started_beside_a_databases_url_is_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHBOARD_DATABASE__URL", "postgresql+psycopg://127.0.0.1:1/production")
    with sandbox(folder):
        assert aim().stand_ins is not None
        monkeypatch.setenv("SWITCHBOARD_DATABASE__URL", "postgresql+psycopg://127.0.0.1:1/other")
        assert aim().stand_ins is None


def test_a_sandbox_and_a_node_never_share_a_folder(folder: Path) -> None:
    with sandbox(folder):
        for again in (True, False):
            with (
                pytest.raises(ConfigError, match=r"a sandbox \(pid \d+\) already runs .* data_dir"),
                claimed(folder, sandbox=again),
            ):
                pytest.fail("both run")
        assert len(running(folder)) == 1
        with (
            pytest.raises(ConfigError, match=r"where the sandbox of .* keeps its data"),
            claimed(folder / "sandbox", sandbox=False),
        ):
            pytest.fail("a node runs over the sandbox's data")
    assert is_of_sandbox(folder / "sandbox")  # also when it does not run
    with (
        node(folder, 8123),
        pytest.raises(ConfigError, match=r"an instance with real settings .* already runs"),
        claimed(folder, sandbox=True),
    ):
        pytest.fail("both run")


def test_one_that_is_just_starting_counts(folder: Path) -> None:
    with (
        claimed(folder, sandbox=False),
        pytest.raises(ConfigError, match=f"pid {os.getpid()}"),
        claimed(folder, sandbox=True),
    ):
        pytest.fail("both run")
    with claimed(folder, sandbox=False):
        assert running(folder) == []  # it does not listen yet


def test_a_command_waits_for_a_sandbox_that_is_just_starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claimed(folder, sandbox=True) as claim:
        stand_ins = StandIns({}, {}, "token", environment_fingerprint())
        begun = Instance(os.getpid(), *HERE, "0.1.0", ("ingress",), stand_ins)
        monkeypatch.setattr("router.cli.instance.time.sleep", lambda _: claim.publish(begun))
        assert aim().stand_ins is not None


def test_a_killed_one_does_not_count(folder: Path) -> None:
    program = (
        "import os, signal, pathlib, sys\n"
        "from router.cli.instance import Instance, claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), sandbox=False) as claim:\n"
        "    claim.publish(Instance(os.getpid(), '127.0.0.1', 8123))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder)])
    assert killed.returncode == -signal.SIGKILL
    assert (folder / "instance-0.json").stat().st_size > 0
    assert running(folder) == []
    with sandbox(folder):
        assert len(running(folder)) == 1


def test_other_things_by_these_names_are_ignored(folder: Path) -> None:
    folder.mkdir()
    (folder / "instance-0.json").mkdir()
    (folder / "instance-1.json").symlink_to(folder / "no" / "where")
    (folder / "instance-2.json.bak").write_text("{}")
    (folder / "instance-x.json").write_text("{}")
    (folder / "sandbox.json").mkdir()
    assert running(folder) == []
    with node(folder, 8123):
        assert [instance.port for instance in running(folder)] == [8123]
        assert (folder / "instance-2.json").is_file()
