"""Structured logs: static event names with fields, readable on a terminal, JSON lines elsewhere.

Phone numbers are masked and secrets dropped by the last processor, whoever wrote the line, because
one forgotten call would otherwise put callers' numbers into a log store.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from typing_extensions import override

from config.settings import LogSettings
from router.events.phone import mask

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_SECRET_KEYS: Final = re.compile(r"secret|token|password|authorization|cookie|signature", re.I)
_OURS: Final = ("router", "consumers", "config")

Fields = MutableMapping[str, Any]


def configure(settings: LogSettings) -> None:
    """Set up structlog and let the libraries' own loggers through it, warnings and worse."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=True,
    )
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    handler.addFilter(_RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in _OURS:
        logging.getLogger(package).setLevel(settings.level.upper())


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one module: `logger = log.get(__name__)`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def redact(_logger: object, _method: str, fields: Fields) -> Fields:
    """Mask phone numbers in every value and drop what is named like a secret."""
    for name, value in fields.items():
        if _SECRET_KEYS.search(name):
            fields[name] = "[secret]"
        elif isinstance(value, str):
            fields[name] = _NUMBER.sub(lambda found: mask(found[0]), value)
        elif not isinstance(value, int | float | bool | None):
            fields[name] = _NUMBER.sub(lambda found: mask(found[0]), str(value))
    return fields


class _RateLimit(logging.Filter):
    """At most 20 lines in 10 s from each library logger: an outage must not fill the disk."""

    _LINES: Final = 20
    _SECONDS: Final = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, tuple[float, int]] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(_OURS):
            return True
        start, count = self._windows.get(record.name, (record.created, 0))
        if record.created - start > self._SECONDS:
            start, count = record.created, 0
        self._windows[record.name] = (start, count + 1)
        return count < self._LINES
