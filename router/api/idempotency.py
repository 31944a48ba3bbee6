"""Idempotency-Key: a creating request that is repeated is carried out once.

The answer is kept for a day, sealed: it may hold a token, which is shown once and stored nowhere.
"""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Final

from router.api.operation import Answer
from router.control.context import Control
from router.errors import Conflict, Invalid, StorageError
from router.observability import log
from router.storage import idempotency as keys
from router.storage.idempotency import Different, Finished, InFlight, Taken

logger = log.get(__name__)

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"

_KEY: Final = re.compile(r"[!-~]{1,255}")
_FAULT: Final = 500


class Idempotency:
    """Carries out each key's request once."""

    def __init__(self, control: Control, *, lease: float) -> None:
        """`lease`: seconds after which a request without an answer is taken for dead."""
        self._control = control
        self._lease = lease

    def key_of(self, headers: Mapping[str, str]) -> str:
        """The request's key, "" for none. Raises Invalid."""
        key = headers.get(HEADER)
        if key is None:
            return ""
        if not _KEY.fullmatch(key):
            raise Invalid(
                (("header", HEADER), "must be 1 to 255 visible ASCII characters"),
                code="idempotency_key_invalid",
            )
        return key

    async def once(
        self, account_id: str, key: str, said: bytes, carry_out: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """What `carry_out` answers, or what it answered before to the same request `said`.

        Answers of 500 and above are not kept, and neither is what `carry_out` raises.

        Raises:
            Invalid: the key was used for another request.
            Conflict: the same request is being carried out.
        """
        db, digest = self._control.database, sha256(said).hexdigest()
        match await keys.begin(db, account_id, key, digest, lease=self._lease):
            case Finished(status, sealed):
                return self._opened(account_id, key, status, sealed)
            case InFlight():
                raise Conflict(
                    "a request with this Idempotency-Key is being worked on: try again soon",
                    code="idempotency_key_in_flight",
                )
            case Different():
                raise Invalid(
                    (("header", HEADER), "was used for another request: a new one needs a new key"),
                    code="idempotency_key_reused",
                )
            case Taken() as taken:
                return await self._carried_out(account_id, key, taken, carry_out)

    async def _carried_out(
        self,
        account_id: str,
        key: str,
        taken: Taken,
        carry_out: Callable[[], Awaitable[Answer]],
    ) -> Answer:
        kept = False
        try:
            answer = await carry_out()
            if answer.status < _FAULT:
                body = self._sealed(account_id, key, answer)
                await self._finish(account_id, key, taken, answer.status, body)
                kept = True
            return answer
        finally:
            if not kept:
                await self._forget(account_id, key, taken)

    async def _finish(
        self, account_id: str, key: str, taken: Taken, status: int, body: bytes
    ) -> None:
        db = self._control.database
        try:
            await keys.finish(db, account_id, key, taken, status=status, body=body)
        except StorageError as error:  # it is done, so its answer goes out
            logger.warning("api.idempotency_key_lost", why=str(error))

    async def _forget(self, account_id: str, key: str, taken: Taken) -> None:
        try:
            await keys.forget(self._control.database, account_id, key, taken)
        except StorageError as error:  # its lease runs out
            logger.warning("api.idempotency_key_held", why=str(error))

    def _sealed(self, account_id: str, key: str, answer: Answer) -> bytes:
        kept = {
            "body": base64.b64encode(answer.body).decode(),
            "headers": dict(answer.headers),
            "content_type": answer.content_type,
        }
        return self._control.vault.seal(_owner(account_id, key), kept)

    def _opened(self, account_id: str, key: str, status: int, sealed: bytes) -> Answer:
        kept = self._control.vault.open(_owner(account_id, key), sealed)
        return Answer(
            status=status,
            body=base64.b64decode(kept["body"]),
            headers={**kept["headers"], REPLAYED: "true"},
            content_type=kept["content_type"],
        )


def request_key(key: str, said: bytes) -> str:
    """What tells a request from all others of its account, however often it is repeated.

    Where an answer got lost with its process, this is what is left (`Actor.request_key`).
    """
    return sha256(key.encode() + b"\n" + said).hexdigest()


def _owner(account_id: str, key: str) -> str:
    return f"idempotency/{account_id}/{key}"
