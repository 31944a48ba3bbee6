"""`python -m tests.fuzz.child TARGET [libFuzzer's arguments]`: one target in one process.

Given a file instead of a folder, libFuzzer runs the target on that input alone.
"""

import gc
import importlib
import sys
from typing import Any

import structlog


def main() -> None:
    # Not in requirements-dev: few platforms have it.
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["router"]):
        targets = importlib.import_module("tests.fuzz.targets").targets()
    # A line for each record that can't be read would be most of the work.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    run = targets[sys.argv[1]].run
    atheris.Setup([sys.argv[0], *sys.argv[2:]], run)
    gc.freeze()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
