"""PostgreSQL from Debian's packages, a fresh cluster per server, with fsync as in production."""

import os
import re
import selectors
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from typing_extensions import override

from tests.support.servers.inventory import program
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.process import Server, ServerFailed, server_folder

_USER: Final = "postgres"
_INITDB_TIMEOUT: Final = 60
_CONFIGURATION: Final = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 200
timezone = 'UTC'
"""


class Postgres(Server):
    """`url` is the maintenance database; take an own one by `create_database`."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast shutdown": does not wait for clients to leave

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.data = folder / "data"
        self.url = self._url("postgres")
        self._initialise()

    @override
    def command(self) -> Sequence[str]:
        return [str(program("postgres")), "-D", str(self.data)]

    @override
    def user(self) -> str | None:
        # The server refuses to run as root; Debian's package brings this user.
        return _USER if os.geteuid() == 0 else None

    @override
    def serves(self) -> bool:
        try:
            with self._connect():
                return True
        except psycopg.OperationalError:
            return False

    @override
    def kill(self) -> None:
        """SIGKILL to the postmaster, and wait until its children have noticed.

        They hold the shared memory, and a restart refuses to begin while one is left.
        """
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        pidfds = [os.pidfd_open(int(child)) for child in children]
        super().kill()
        for pidfd in pidfds:
            _wait_for_end(pidfd)

    def create_database(self, name: str) -> str:
        """The URL (SQLAlchemy's, driver psycopg) of a new, empty database.

        Raises:
            ValueError: not a plain name (letters, digits, `_`).
            psycopg.errors.DuplicateDatabase: there is one.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
            raise ValueError(f"not a plain database name: {name!r}")
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{_USER}@{HOST}:{self.port}/{database}"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=_USER,
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        )

    def _initialise(self) -> None:
        user = self.user()
        if user is not None:
            shutil.chown(self.folder, user, user)
        done = subprocess.run(
            [
                str(program("postgres").with_name("initdb")),
                *("-D", str(self.data), "-U", _USER, "--auth=trust", "--no-sync"),
                *("--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INITDB_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"initdb ended with {done.returncode}:\n{done.stdout[-2000:]}")
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION.format(host=HOST, port=self.port))


def _wait_for_end(pidfd: int) -> None:
    """Until the process is gone, five seconds at most; closes the descriptor."""
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.select(5)
    os.close(pidfd)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A fresh PostgreSQL on a free port."""
    with server_folder("postgres") as folder, Postgres(folder) as server:
        yield server
