"""`python -m router` is `switchboard`: the process's entry point."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. Ctrl-C ends it with exit code 130, also while it is still importing."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for what a script puts behind &
        signal.signal(signal.SIGINT, _end)
    from router.cli.main import app

    app()


def _end(_number: int, _frame: FrameType | None) -> None:
    # Not by an exception: raised in the middle of an import it would leave a trace.
    os._exit(130)


if __name__ == "__main__":
    main()
