"""A table of trunks or dispatch rules: what livekit-server keeps in one Redis hash.

The real server lists, checks and stores without a lock; two creates at once can both land. The
stand-in does it in one step, so conflicts of that kind must be put into `rows` by hand.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from livekit.protocol import sip

from router.sandbox.livekit import ids
from router.sandbox.livekit.errors import TwirpError, from_rpc, invalid
from router.sandbox.livekit.sip_update import apply_update

LIMIT: Final = 100_000  # objects of a kind: memory, not a rule of LiveKit's

Info = TypeVar("Info", sip.SIPInboundTrunkInfo, sip.SIPOutboundTrunkInfo, sip.SIPDispatchRuleInfo)


class Table(Generic[Info]):
    """The objects of one kind, by id."""

    def __init__(self, *, id_field: str, prefix: str, noun: str, what: str) -> None:
        self.rows: dict[str, Info] = {}
        self._id_field, self._prefix, self._noun, self._what = id_field, prefix, noun, what

    def load(self, key: str) -> Info:
        """Raises TwirpError: there is none."""
        if key not in self.rows:
            raise TwirpError("not_found", f"requested sip {self._what} does not exist")
        return self.rows[key]

    def list(self, wanted: Sequence[str], *, after: str) -> Sequence[Info]:
        """The rows with these ids (none: all) behind `after`, sorted by id."""
        keys = sorted(set(self.rows).intersection(wanted) if wanted else self.rows)
        return [self.rows[key] for key in keys if key > after]

    def insert(self, info: Info, check: Callable[[Info, Iterable[Info]], None]) -> Info:
        """Store a new one, when `check` agrees with it beside the others.

        Raises:
            TwirpError: it has an id already, `check` refused it, or the table is full.
        """
        if getattr(info, self._id_field):
            raise invalid(f"{self._noun} id must not be set")
        if len(self.rows) >= LIMIT:
            raise TwirpError("resource_exhausted", f"the sandbox holds {LIMIT} of a kind")
        check(info, self.rows.values())
        key = ids.new_id(self._prefix)
        setattr(info, self._id_field, key)
        self.rows[key] = info
        return info

    def update(self, request: Any, check: Callable[[Info, Iterable[Info]], None]) -> Info:
        """Carry out an update request: `replace` the row, or `update` single fields of it.

        Raises:
            TwirpError: no such row, no action, or `check` refused the outcome.
        """
        key = getattr(request, self._id_field)
        if not key:
            raise invalid(f"{self._noun} id must be set")
        action = request.WhichOneof("action")
        if action is None:
            raise invalid("missing or unsupported update action")
        info = self._replaced(key, request) if action == "replace" else self._changed(key, request)
        others = [row for row_key, row in self.rows.items() if row_key != key]
        try:
            check(info, others)
        except TwirpError as error:
            if action == "replace":
                raise
            raise from_rpc(error.code, str(error)) from error
        self.rows[key] = info
        return info

    def _replaced(self, key: str, request: Any) -> Info:
        info = type(self.load(key))()
        info.CopyFrom(request.replace)
        if getattr(info, self._id_field) not in ("", key):
            raise invalid(
                f"{self._noun} id in the info must be empty or match the id in the update"
            )
        setattr(info, self._id_field, key)
        return info

    def _changed(self, key: str, request: Any) -> Info:
        row = self.load(key)
        info = type(row)()
        info.CopyFrom(row)
        apply_update(info, request.update)
        return info
