"""On what was measured."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

import apsw

_PACKAGES = ("aiohttp", "uvloop", "aiokafka", "msgspec", "apsw", "sqlalchemy", "livekit-api")


def facts() -> list[str]:
    """Lines of Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    cores = os.cpu_count()
    return [
        f"- {cores} cores of {_cpu()}, {platform.system()} {platform.release()}; "
        f"data on {_file_system()}",
        f"- {platform.python_implementation()} {platform.python_version()}; {versions}, "
        f"SQLite {apsw.sqlite_lib_version()}",
    ]


def load_average() -> float:
    """Runnable processes over the last minute: how busy the machine is with other things."""
    return os.getloadavg()[0]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system() -> str:
    told = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "--target", gettempdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "an unknown file system"
