"""Free loopback ports for servers that must know their port before they start.

They are drawn from below the ephemeral range (Linux: `ip_local_port_range`, 32768 and up), so no
client's outgoing connection can take a server's port while it is being restarted. Between drawing
and binding another test run may still take it; the start of numbering is random to make that rare.
The workers of one run (pytest-xdist) draw from shares of their own.
"""

import os
import random
import socket
from contextlib import ExitStack
from typing import Final

HOST: Final = "127.0.0.1"
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SHARE: Final = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_FIRST: Final = 10_000 + _WORKER * _SHARE
_LAST: Final = _FIRST + _SHARE
_ATTEMPTS: Final = 200
_random = random.SystemRandom()  # the tests' own seeds must not move the ports
_given: set[int] = set()


def free_port() -> int:
    """A port that is free for TCP and UDP, and was not given out by this process before."""
    return free_range(1)


def free_range(count: int) -> int:
    """The first of `count` ports in a row that are all free for TCP and UDP.

    Raises:
        RuntimeError: no such row was found.
    """
    for _ in range(_ATTEMPTS):
        first = _random.randrange(_FIRST, _LAST - count)
        row = range(first, first + count)
        if _given.isdisjoint(row) and _all_free(row):
            _given.update(row)
            return first
    raise RuntimeError(f"no {count} free ports in a row between {_FIRST} and {_LAST}")


def _all_free(row: range) -> bool:
    with ExitStack() as stack:
        for port in row:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    stack.enter_context(socket.socket(socket.AF_INET, kind)).bind((HOST, port))
                except OSError:
                    return False
    return True
