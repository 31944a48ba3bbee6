"""What every command starts with: the settings, and the errors and exit codes it ends with.

| exit code | meaning                                                                    |
|-----------|----------------------------------------------------------------------------|
| 0         | done                                                                       |
| 1         | the answer is no: doctor found a problem, a call got no agent              |
| 2         | the command, the settings or a file is wrong; the message says which       |
| 3         | something needed can't be reached: the database, the log, an instance      |
| 4         | the journal's disk failed: mend it, then start anew                        |
"""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop
from rich.markup import escape

from config import ConfigProblem, Settings, load
from router.cli import marker
from router.cli.render import problems
from router.errors import ConfigError, LogError, LogFailed, StorageError, SwitchboardError
from router.events.phone import normalise
from router.observability import log

T = TypeVar("T")

NO, WRONG, UNREACHABLE, DISK_FAILED = 1, 2, 3, 4

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (TOML); also SWITCHBOARD_CONFIG."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def settings_of(config: Path | None) -> Settings:
    """The settings of the instance that is meant: a running sandbox beside us, else the usual."""
    settings = load(config)
    sandbox = marker.read(settings.data_dir)
    if sandbox is not None:
        settings = load(config, sandbox.overrides)
    log.configure(settings.log)  # to stderr: what is asked for is alone on stdout
    return settings


def local_url(settings: Settings, port: int = 0) -> str:
    """Where a process with these settings is reached from this machine; `port` where it differs."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - not bound
        settings.http.host, settings.http.host
    )
    return f"http://{f'[{host}]' if ':' in host else host}:{port or settings.http.port}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. The first Ctrl-C ends it, one more ends the process at once."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(work)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def reported() -> Generator[None]:
    """Errors as a sentence and an exit code, never as a traceback."""
    try:
        yield
    except (ConfigProblem, ConfigError) as error:
        raise fail(str(error), WRONG) from error
    except LogFailed as error:
        raise fail(str(error), DISK_FAILED) from error
    except (StorageError, LogError) as error:
        raise fail(str(error), UNREACHABLE) from error
    except SwitchboardError as error:
        raise fail(str(error), NO) from error
    except OSError as error:
        if error.filename is None:
            raise
        raise fail(f"{error.filename}: {error.strerror}", WRONG) from error


def fail(message: str, code: int) -> typer.Exit:
    """Print why; the command raises what this returns."""
    problems.print(f"[red]{escape(message)}[/red]")
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
