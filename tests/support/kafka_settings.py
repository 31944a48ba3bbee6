"""Settings of the log for tests: the defaults, shortened where a test would wait."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import Settings, load


def log_settings(
    data_dir: Path,
    *,
    bootstrap: str = "",
    journal: Mapping[str, Any] | None = None,
    kafka: Mapping[str, Any] | None = None,
) -> Settings:
    """Without `bootstrap`, of the journal alone; `journal` and `kafka` are keys of their tables."""
    return load(
        overrides={
            "data_dir": data_dir,
            "journal": {"min_free_bytes": 0, **(journal or {})},
            "kafka": {
                "bootstrap_servers": bootstrap,
                "partitions": 3,
                "stall_after": 3.0,
                "session_timeout": 3.0,
                "rebalance_timeout": 6.0,
                "takeover_after": 0.3,
                **(kafka or {}),
            },
        }
    )
