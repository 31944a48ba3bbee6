"""Reads the settings: defaults.toml < file < environment."""

import os
import tomllib
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
    TomlConfigSettingsSource,
)
from typing_extensions import override

from config.check import ConfigProblem
from config.settings import Settings

FILE_VARIABLE: Final = "SWITCHBOARD_CONFIG"
_PREFIX: Final = "SWITCHBOARD_"


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. `overrides` (of the sandbox) beat everything.

    Raises:
        ConfigProblem: a file can't be read, a key is unknown or a value is wrong; every problem is
            in the message, with the key's dotted path and, for values, what would be right.
    """
    path = path or (Path(given) if (given := os.environ.get(FILE_VARIABLE)) else None)
    if path is not None and not path.is_file():
        raise ConfigProblem(f"there is no settings file {path}")
    _refuse_unknown_variables()
    with as_file(files("config") / "defaults.toml") as defaults:
        try:
            return _reader(path, defaults, overrides or {})()  # type: ignore[call-arg]  # from the sources
        except ValidationError as error:
            raise ConfigProblem("\n".join(_words(problem) for problem in error.errors())) from None
        except SettingsError as error:
            raise ConfigProblem(f"{error}: lists and tables are written as JSON") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigProblem(f"{path} is not TOML: {error}") from error


def _reader(path: Path | None, defaults: Path, overrides: Mapping[str, Any]) -> type[Settings]:
    class Reader(Settings):
        @classmethod
        @override
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_files = [path, defaults] if path is not None else [defaults]
            return (
                InitSettingsSource(settings_cls, init_kwargs=dict(overrides)),
                env_settings,
                *(TomlConfigSettingsSource(settings_cls, file) for file in from_files),
            )

    return Reader


def _refuse_unknown_variables() -> None:
    # pydantic-settings looks only for the names it knows: a misspelt one would be lost silently.
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | {FILE_VARIABLE}
    for name in os.environ:
        upper = name.upper()
        if upper.startswith(_PREFIX) and upper.partition("__")[0] not in known:
            raise ConfigProblem(f"{name}: there is no such setting; see config/defaults.toml")


def _words(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such setting; see config/defaults.toml"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
