"""Structured logs: static event names with fields, readable on a terminal, JSON lines elsewhere.

Phone numbers are masked and secrets dropped by the last processor, whoever wrote the line, because
one forgotten call would otherwise put callers' numbers into a log store.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Final

import structlog
from typing_extensions import override

from config.settings import LogSettings
from router.events.phone import mask_in

_SECRET_KEYS: Final = re.compile(r"secret|token|password|authorization|cookie|signature", re.I)
_OURS: Final = ("router", "consumers", "config")

Fields = MutableMapping[str, Any]


def configure(settings: LogSettings) -> None:
    """Set up structlog and let the libraries' own loggers through it, warnings and worse."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,  # request_id
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=False,  # a cached one would keep an earlier configuration
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
            fields[name] = mask_in(value)
        elif not isinstance(value, int | float | bool | None):
            fields[name] = mask_in(str(value))
    return fields


class Budget:
    """At most 20 in 10 s for each key, so that no outage and no stranger fills the disk.

    Of lines, and of other work that strangers could make us do.
    """

    _LINES: Final = 20
    _SECONDS: Final = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[Hashable, tuple[float, int, int]] = {}  # began, written, left out

    def spend(self, key: Hashable) -> int | None:
        """How many lines were left out since the last one, None for leaving this one out too.

        Keys are kept for ever: they must come from a closed set.
        """
        now = self._clock()
        began, written, left_out = self._windows.get(key, (now, 0, 0))
        if now - began > self._SECONDS:
            began, written = now, 0
        if written >= self._LINES:
            self._windows[key] = (began, written, left_out + 1)
            return None
        self._windows[key] = (began, written + 1, 0)
        return left_out


class _RateLimit(logging.Filter):
    """A budget for each library's logger."""

    def __init__(self) -> None:
        super().__init__()
        self._budget = Budget()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.startswith(_OURS) or self._budget.spend(record.name) is not None
