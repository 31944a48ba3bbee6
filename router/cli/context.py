"""What every command starts with: the settings, and the errors and exit codes it ends with.

| exit code | meaning                                                                    |
|-----------|----------------------------------------------------------------------------|
| 0         | done                                                                       |
| 1         | the answer is no: doctor found a problem, a call got no agent              |
| 2         | the command, the settings or a file is wrong; the message says which       |
| 3         | something needed can't be reached: the database, the log, an instance      |
"""

import asyncio
import json
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
from router.errors import ConfigError, LogError, StorageError, SwitchboardError
from router.events.phone import normalise

T = TypeVar("T")

NO, WRONG, UNREACHABLE = 1, 2, 3

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (TOML); also SWITCHBOARD_CONFIG."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def settings_of(config: Path | None) -> Settings:
    """The settings of the instance that is meant: a running sandbox beside us, else the usual."""
    settings = load(config)
    sandbox = marker.read(settings.data_dir)
    return settings if sandbox is None else load(config, sandbox.overrides)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def reported() -> Generator[None]:
    """Errors as a sentence and an exit code, never as a traceback."""
    try:
        yield
    except (ConfigProblem, ConfigError) as error:
        raise fail(str(error), WRONG) from error
    except (StorageError, LogError) as error:
        raise fail(str(error), UNREACHABLE) from error
    except SwitchboardError as error:
        raise fail(str(error), NO) from error


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
