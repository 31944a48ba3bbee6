"""What every command starts with: the settings, and the errors and exit codes it ends with.

A command speaks of the instance over its data folder, and says which one that is in a line on
stderr. It is the sandbox that runs there, unless real settings are given: a sandbox must not take
what is meant for them, and say of itself that all is well.

| exit code | meaning                                                                    |
|-----------|----------------------------------------------------------------------------|
| 0         | done                                                                       |
| 1         | the answer is no: doctor found a problem, a call got no agent              |
| 2         | the command, the settings or a file is wrong; the message says which       |
| 3         | something needed can't be reached: the database, the log, an instance      |
| 4         | the journal's disk failed: mend it, then start anew                        |
| 130       | ended by Ctrl-C                                                            |
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Collection, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
import uvloop
from rich.markup import escape

from config import ConfigProblem, Settings, load
from config.load import FILE_VARIABLE
from router.cli import instance
from router.cli.instance import Instance, StandIns
from router.cli.render import problems
from router.errors import ConfigError, LogFailed, SwitchboardError
from router.events.phone import normalise
from router.observability import log

T = TypeVar("T")

NO, WRONG, UNREACHABLE, DISK_FAILED = 1, 2, 3, 4

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (TOML); also SWITCHBOARD_CONFIG."),
]
AccountOption = Annotated[
    str, typer.Option("--account", metavar="NAME", help="Whose; see `switchboard accounts list`.")
]
DEFAULT_NAME: Final = "default"
"""Of the account that is there from the first migration on."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@dataclass(frozen=True, slots=True)
class Target:
    """What a command speaks to. `settings` have the port on which it really listens."""

    settings: Settings
    stand_ins: StandIns | None  # of a sandbox
    words: str  # which instance it is, in a line


def settings_of(config: Path | None) -> Settings:
    """The settings of the instance that is meant; see `target_of`."""
    return target_of(config).settings


def target_of(config: Path | None) -> Target:
    """The instance that is meant; `run` names it on stderr. Raises ConfigProblem."""
    settings = load(config)
    log.configure(settings.log)  # to stderr: what is asked for is alone on stdout
    if not installation_named(config):
        instance.wait_for_sandbox(settings.data_dir)
    running = instance.running(settings.data_dir)
    sandbox = next((each for each in running if each.stand_ins is not None), None)
    if sandbox is None or sandbox.stand_ins is None:
        target = _node(settings, config, running)
    elif real := _real_settings(config, sandbox.stand_ins):
        target = _node(settings, config, ())
        words = f"{target.words}; not the sandbox on {_url(sandbox)}, because of {', '.join(real)}"
        target = replace(target, words=words)
    else:
        settings = load(config, sandbox.stand_ins.overrides)
        words = f"sandbox on {_url(sandbox)} (data folder {settings.data_dir.resolve()})"
        target = Target(settings, sandbox.stand_ins, words)
    _announcement[:] = [target.words]
    return target


_announcement: Final[list[str]] = []
"""Which instance is meant, until the command begins to speak to it: see `run`."""


def _node(settings: Settings, config: Path | None, running: Sequence[Instance]) -> Target:
    file = config or os.environ.get(FILE_VARIABLE)
    source = f"settings {file}" if file else "no settings file"
    where = f"({source}, data folder {settings.data_dir.resolve()})"
    if not running:
        return Target(settings, None, f"no instance runs here {where}")
    asked = (settings.http.host, settings.http.port)
    # The one that was asked for, else one that takes webhooks: several share a folder over Kafka.
    best = min(running, key=lambda one: ((one.host, one.port) != asked, "ingress" not in one.roles))
    http = settings.http.model_copy(update={"host": best.host, "port": best.port})
    words = f"instance on {_url(best)} {where}"
    if len(running) > 1:
        others = ", ".join(_url(one) for one in running if one is not best)
        words += f"; beside it {others}"
    if best.version != version():
        words += f"; it is version {best.version}, this command {version()}"
    return Target(settings.model_copy(update={"http": http}), None, words)


def _real_settings(config: Path | None, sandbox: StandIns) -> list[str]:
    """What says that no sandbox is meant: a settings file, or whose account or server to use.

    Variables of a database or a broker alone are no installation; whoever has them set and starts
    a sandbox means it. Given to a command that the sandbox's environment did not have, they count.
    """
    names = installation_named(config)
    if not names and environment_fingerprint() != sandbox.started_under:
        names = _variables(_STORES)
    return names


def installation_named(config: Path | None) -> list[str]:
    """What names a real installation: a settings file, variables of its URL and its accounts."""
    if config is not None:
        return ["--config"]
    return _variables(("CONFIG", "PUBLIC_URL", "LIVEKIT", "PROVIDERS"))


_STORES: Final = ("DATABASE", "KAFKA", "SECRET_KEY")


def environment_fingerprint() -> str:
    """Of the variables that name a database, brokers or a key; none of them can be read from it."""
    held = [(name, os.environ[name]) for name in _variables(_STORES)]
    return hashlib.sha256(repr(held).encode()).hexdigest()


def _variables(sections: Collection[str]) -> list[str]:
    """The names of the environment's variables that set something in these sections."""
    prefix = "SWITCHBOARD_"
    return sorted(
        name
        for name, value in os.environ.items()
        if name.upper().startswith(prefix)
        and value
        and name.upper().removeprefix(prefix).partition("__")[0] in sections
    )


def version() -> str:
    """Of this program."""
    return metadata.version("switchboard")


def _url(one: Instance) -> str:
    return url_of(one.host, one.port)


def local_url(settings: Settings, port: int = 0) -> str:
    """Where a process with these settings is reached from this machine; `port` where it differs."""
    return url_of(settings.http.host, port or settings.http.port)


def url_of(host: str, port: int) -> str:
    """Where what listens on `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine, and say first which instance it speaks to.

    The first Ctrl-C ends it, one more ends the process at once.
    """
    for words in _announcement:
        problems.print(f"[dim]{escape(words)}[/dim]")
    _announcement.clear()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        # asyncio cancels the work on Ctrl-C only where Python's own handler is in place.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(work)
            finally:
                if before is not signal.SIG_IGN:
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def reported() -> Generator[None]:
    """Errors as a sentence with what to do, and an exit code; never as a traceback.

    What is no error of `router.errors`, nor a file's, is a bug and keeps its trace.
    """
    try:
        yield
    except ConfigProblem as error:
        raise fail(str(error), WRONG) from error
    except SwitchboardError as error:
        raise _reported(error) from error
    except BaseExceptionGroup as group:  # of tasks, which run side by side
        cause = _cause(group)
        if cause is None:
            raise
        raise _reported(cause) from group
    except OSError as error:
        if error.filename is None:
            raise
        remedy = "Is that the right place, and may this user use it?"
        raise fail(f"{error.filename}: {error.strerror}", WRONG, remedy=remedy) from error


def _reported(error: SwitchboardError) -> typer.Exit:
    message, key = str(error), getattr(error, "key", "")
    return fail(
        message if not key or key in message else f"{key}: {message}",
        error.exit_code,
        remedy="" if "switchboard " in message else error.remedy,  # it names the command already
    )


def _cause(group: BaseExceptionGroup[BaseException]) -> SwitchboardError | None:
    """What a person has to mend, where the group says it; None for a bug, which needs its trace."""
    for kind in (LogFailed, SwitchboardError):
        found: BaseException | None = group.subgroup(kind)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if isinstance(found, SwitchboardError):
            return found
    return None


def fail(message: str, code: int, *, remedy: str = "") -> typer.Exit:
    """Print why, and what to do where the message does not say; the command raises the result."""
    problems.print(f"[red]{escape(message)}[/red]")
    if remedy:
        problems.print(escape(remedy))
    return typer.Exit(code)


def e164(text: str) -> str:
    """The number that a person wrote. Raises ConfigError."""
    try:
        return normalise(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from error


def print_json(value: object) -> None:
    """One JSON document, indented; structs by their fields, times in µs as they are."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    json.dump(plain, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
