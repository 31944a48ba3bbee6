"""The connections of all accounts at carriers, in memory: what verifies and answers for each.

Fed by `telephony.connections`, with a copy in the data folder: neither needs a database. Values are
sealed on the topic and in the copy; in memory they are open.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from typing_extensions import override

from router.clock import Clock
from router.eventlog.base import EventLog, Record
from router.eventlog.compacted import CompactedTable, Unusable, pages
from router.events.types import CONNECTIONS_TOPIC
from router.observability.metrics import CONNECTIONS
from router.provider import Credentials
from router.routing.scope import OPERATOR, Proof
from router.routing.table import NEVER, Version
from router.storage.connections import SealedConnection
from router.storage.records import version_of
from router.vault import Unreadable, Vault

K = TypeVar("K")

_Secrets = tuple[str, frozenset[tuple[str, str]]]


class _Entry(NamedTuple):
    sealed: SealedConnection
    credentials: Credentials | None  # None: nothing here opens it


class ConnectionTable:
    """A `router.provider.ConnectionBook` that changes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._entries: dict[str, _Entry] = {}
        self._removed: dict[str, Version] = {}  # against records that come late
        self._held: dict[tuple[str, str], dict[str, None]] = {}  # (provider, account) → ids
        self._at: dict[str, dict[str, None]] = {}  # provider → ids
        self._same: dict[_Secrets, dict[str, None]] = {}  # credentials → ids
        self.unreadable: set[str] = set()  # those that can't be opened as they are now

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[SealedConnection]:
        return (entry.sealed for entry in self._entries.values())

    def put(self, sealed: SealedConnection) -> bool:
        """Take a connection; False when the table already knows a newer one.

        One that can't be opened keeps what it had before: its account's calls go on.
        """
        if sealed.version <= self.version_of(sealed.id):
            return False
        before = self._forget(sealed.id)
        self._removed.pop(sealed.id, None)
        credentials = self._opened(sealed)
        if credentials is None:
            self.unreadable.add(sealed.id)
            same = before is not None and before.sealed.provider_account == sealed.provider_account
            credentials = before.credentials if before is not None and same else None
        self._entries[sealed.id] = _Entry(sealed, credentials)
        self._at.setdefault(sealed.provider, {})[sealed.id] = None
        self._held.setdefault((sealed.provider, sealed.provider_account), {})[sealed.id] = None
        if credentials is not None:
            place = _secrets(credentials.provider, credentials.secrets)
            self._same.setdefault(place, {})[sealed.id] = None
        return True

    def remove(self, connection_id: str, version: Version) -> bool:
        """Forget a connection; False when the table already knows a newer change."""
        if version <= self.version_of(connection_id):
            return False
        self._forget(connection_id)
        self._removed[connection_id] = version
        return True

    def version_of(self, connection_id: str) -> Version:
        """The newest change of this connection that was taken."""
        entry = self._entries.get(connection_id)
        if entry is not None:
            return entry.sealed.version
        return self._removed.get(connection_id, NEVER)

    def removed(self) -> Mapping[str, Version]:
        """Connections that were removed, with the version of the removal."""
        return self._removed

    def get(self, connection_id: str) -> Credentials | None:
        """See `ConnectionBook`."""
        entry = self._entries.get(connection_id)
        return entry.credentials if entry is not None else None

    def of_account(self, provider: str, provider_account: str) -> Sequence[Credentials]:
        """See `ConnectionBook`.

        Anybody may name an account that is another's, as often as they like: whoever asks for some
        of these alone must find the true one among them.
        """
        turns: dict[str, int] = {}  # account → how many of its own were met
        ranked: list[tuple[int, Credentials]] = []
        for entry in self._oldest_first(self._held.get((provider, provider_account), ())):
            turn = turns[entry.sealed.account_id] = turns.get(entry.sealed.account_id, 0) + 1
            if entry.credentials is not None:
                ranked.append((turn, entry.credentials))
        ranked.sort(key=lambda found: found[0])  # stable: the oldest first
        return [credentials for _, credentials in ranked]

    def all(self, provider: str, *, limit: int | None = None) -> Sequence[Credentials]:
        """See `ConnectionBook`."""
        entries = self._oldest_first(islice(self._at.get(provider, ()), limit))
        return [entry.credentials for entry in entries if entry.credentials is not None]

    def holders(self, provider: str, secrets: Mapping[str, str]) -> Sequence[str]:
        """See `ConnectionBook`."""
        return list(self._same.get(_secrets(provider, secrets), ()))

    def proof(self, signers: Collection[str]) -> Proof:
        """See `ConnectionBook`."""
        known = self._oldest_first(each for each in signers if each in self._entries)
        if "" in signers or not known:
            return OPERATOR._replace(connections=frozenset(signers))
        owners = {entry.sealed.account_id for entry in known}
        return Proof(
            frozenset(signers), known[0].sealed.id, owners.pop() if len(owners) == 1 else ""
        )

    def _oldest_first(self, ids: Iterable[str]) -> list[_Entry]:
        entries = [self._entries[each] for each in ids]
        entries.sort(key=lambda entry: (entry.sealed.created_at, entry.sealed.id))
        return entries

    def _opened(self, sealed: SealedConnection) -> Credentials | None:
        try:
            secrets = self._vault.open(sealed.id, sealed.sealed)
        except Unreadable:
            return None
        return Credentials(sealed.provider, sealed.id, sealed.provider_account, secrets)

    def _forget(self, connection_id: str) -> _Entry | None:
        before = self._entries.pop(connection_id, None)
        self.unreadable.discard(connection_id)
        if before is None:
            return None
        _drop(self._at, before.sealed.provider, connection_id)
        _drop(self._held, (before.sealed.provider, before.sealed.provider_account), connection_id)
        if (found := before.credentials) is not None:
            _drop(self._same, _secrets(found.provider, found.secrets), connection_id)
        return before


def _secrets(provider: str, secrets: Mapping[str, str]) -> _Secrets:
    return provider, frozenset(secrets.items())


def _drop(places: dict[K, dict[str, None]], place: K, connection_id: str) -> None:
    places[place].pop(connection_id)
    if not places[place]:
        del places[place]


class _Copy(msgspec.Struct, frozen=True):
    """A line of the copy; all secrets in it are sealed."""

    connections: Sequence[SealedConnection] = ()
    removed: dict[str, Version] = {}


class ConnectionFollower(CompactedTable):
    """Feeds `table` until cancelled."""

    topic = CONNECTIONS_TOPIC
    name = "connections"
    keeps_empty = True  # so that a restart in an outage knows that there are no tenants' keys

    def __init__(self, table: ConnectionTable, events: EventLog, clock: Clock, path: Path) -> None:
        super().__init__(events, clock, path)
        self.table = table

    def facts(self) -> dict[str, Any]:
        """For /readyz."""
        return {
            "connections": len(self.table),
            "unreadable": len(self.table.unreadable),
            "current": self.caught_up_at is not None,
        }

    @override
    def measure(self) -> None:
        """See `CompactedTable`."""
        CONNECTIONS.set(len(self.table))

    @override
    def take(self, record: Record) -> bool:
        """See `CompactedTable`."""
        version = version_of(record.headers)
        if version is None:
            raise Unusable("no rev")
        if record.value is None:
            return self.table.remove(record.key, version)
        try:
            sealed = msgspec.json.decode(record.value, type=SealedConnection)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            raise Unusable("not a connection") from None
        if sealed.id != record.key:
            raise Unusable("its key is another connection's id")
        changed = self.table.put(sealed)
        if changed and sealed.id in self.table.unreadable:
            self._warn_of_key(sealed.id)
        return changed

    def _warn_of_key(self, connection_id: str, more: int = 0) -> None:
        facts = {"more": more} if more else {}
        mend = "previous_secret_keys"
        self.warn("sealed_with_another_key", id=connection_id, **facts, mend=mend)

    @override
    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """See `CompactedTable`."""
        connections, removed = list(self.table), dict(self.table.removed())

        def lines() -> Iterator[bytes]:
            for page in pages(connections):
                yield msgspec.json.encode(_Copy(page))
            yield msgspec.json.encode(_Copy(removed=removed))

        return lines

    @override
    def read_line(self, line: bytes) -> _Copy:
        """See `CompactedTable`."""
        return msgspec.json.decode(line, type=_Copy)

    @override
    def restore(self, line: _Copy) -> None:
        """See `CompactedTable`."""
        closed = [
            sealed.id
            for sealed in line.connections
            if self.table.put(sealed) and sealed.id in self.table.unreadable
        ]
        if closed:
            self._warn_of_key(closed[0], more=len(closed) - 1)
        for connection_id, version in line.removed.items():
            self.table.remove(connection_id, version)
