"""Redis, with nothing on disk: LiveKit keeps its trunks and rules in it."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from tests.support.servers.inventory import program
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.process import Server, server_folder


class Redis(Server):
    """`address` is `host:port`. A restart begins empty."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"

    @override
    def command(self) -> Sequence[str]:
        return [
            str(program("redis")),
            *("--bind", HOST, "--port", str(self.port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no"),
        ]

    @override
    def serves(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"


@contextmanager
def redis_server() -> Iterator[Redis]:
    """An empty Redis on a free port."""
    with server_folder("redis") as folder, Redis(folder) as server:
        yield server
