"""Reads the settings: defaults.toml < file < environment."""

import json
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)
from typing_extensions import override

from config.check import ConfigProblem
from config.settings import Settings

FILE_VARIABLE: Final = "SWITCHBOARD_CONFIG"
_PREFIX: Final = "SWITCHBOARD_"
_PLAIN_KEY: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
# For pydantic's own words, which speak of inputs, classes and Python's types.
_WORDS: Final = {
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a few digits",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_long": "has too many entries: {max_length} at most",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "path_type": "must be a path",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
}


class UnreadableSettings(ConfigProblem):
    """There is no settings file where one was named, or it is not TOML."""


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. `overrides` (of the sandbox) beat everything.

    Raises:
        ConfigProblem: a key is unknown or a value is wrong; every problem is in the message, a line
            each, with the key's dotted path and what would be right, never with the value.
        UnreadableSettings: the file can't be read at all.
    """
    path = path or (Path(given) if (given := os.environ.get(FILE_VARIABLE)) else None)
    from_file = _table_of(path) if path is not None else {}
    wrong = _wrong_variables()
    problems, settings = list(wrong.values()), None
    try:
        settings = _Reader(_Layers(overrides or {}, from_file, _defaults(), frozenset(wrong)))
    except ValidationError as error:
        problems += [_words(problem) for problem in error.errors(include_url=False)]
    if problems or settings is None:
        raise ConfigProblem("\n".join(problems))
    return settings


def _table_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UnreadableSettings(f"there is no settings file {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableSettings(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also digits and tables without end
        why = "too deep" if isinstance(error, RecursionError) else error
        raise UnreadableSettings(f"{path} is not TOML: {why}") from error


@cache
def _defaults() -> dict[str, Any]:
    return tomllib.loads((files("config") / "defaults.toml").read_text(encoding="utf-8"))


class _Layers(NamedTuple):
    """What settings are made of, the highest first; the environment is below the overrides."""

    overrides: Mapping[str, Any]
    file: Mapping[str, Any]
    defaults: Mapping[str, Any]
    without: Collection[str]  # variables that are wrong and are told by themselves


_layers: ContextVar[_Layers] = ContextVar("layers")


class _Reader(Settings):
    def __init__(self, layers: _Layers) -> None:
        token = _layers.set(layers)
        try:
            super().__init__()  # type: ignore[call-arg]  # from the sources
        finally:
            _layers.reset(token)

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
        layers = _layers.get()
        if isinstance(env_settings, EnvSettingsSource):
            wrong = {name.lower() for name in layers.without}
            found = env_settings.env_vars.items()
            env_settings.env_vars = {name: text for name, text in found if name not in wrong}
        return (
            InitSettingsSource(settings_cls, dict(layers.overrides)),
            env_settings,
            InitSettingsSource(settings_cls, dict(layers.file)),
            InitSettingsSource(settings_cls, dict(layers.defaults)),
        )


def _wrong_variables() -> dict[str, str]:
    """Of the environment: what names no setting, or is no table where one must be → why.

    pydantic-settings looks only for the names it knows, so a misspelt one would be lost silently.
    """
    named = [name for name in sorted(os.environ) if name.upper().startswith(_PREFIX)]
    found = {name: _wrong_variable(name) for name in named if name.upper() != FILE_VARIABLE}
    return {name: words for name, words in found.items() if words is not None}


def _wrong_variable(name: str) -> str | None:
    model: type[BaseModel] = Settings
    path = name.upper().removeprefix(_PREFIX).lower().split("__")
    for depth, part in enumerate(path, 1):
        field = model.model_fields.get(part)
        if field is None and depth > 1:
            return None  # pydantic says so, with the key's path
        if field is None:
            return f"{name}: there is no such setting; see config/defaults.toml"
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            is_table = get_origin(field.annotation) is dict
            is_whole = depth == len(path) or is_table
            return None if is_whole else f"{name}: {dotted(tuple(path[:depth]))} is no table"
        model = field.annotation
    try:
        is_table = isinstance(json.loads(os.environ[name]), dict)
    except (ValueError, RecursionError):
        is_table = False
    if is_table:
        return None
    return f"{dotted(tuple(path))}: is not a JSON table; or write one variable a key: {name}__KEY"


def _words(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        words = "there is no such setting; see config/defaults.toml"
    else:
        words = _plain(problem)
    return f"{dotted(problem['loc'])}: {words}"


def in_words(error: ValidationError) -> str:
    """What is wrong with an option of the command line, without pydantic's own manner."""
    return _plain(error.errors(include_url=False)[0])


def _plain(problem: Any) -> str:
    if problem["type"] in _WORDS:
        return _WORDS[problem["type"]].format_map(problem.get("ctx", {}))
    return str(problem["msg"]).removeprefix("Value error, ")


def dotted(location: tuple[int | str, ...]) -> str:
    """A setting's path as people write it: `providers.twilio.auth_tokens[1]`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part == "[key]":  # pydantic's: the problem is with the key before
            continue
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{json.dumps(part[:64])}]"
    return path
