"""Every error that Switchboard raises on purpose, and what each ends with.

| error                     | what it is                                           | exit | HTTP |
|---------------------------|------------------------------------------------------|------|------|
| SwitchboardError          | the root                                             | 1    | 503  |
| ├ ConfigError             | a setting, an argument or a file is wrong            | 2    | 503  |
| ├ WebhookError            | what a provider sent can't be taken                  | 1    | 503  |
| │ ├ BadSignature          | it can't prove who sent it                           | 1    | 403  |
| │ ├ BadPayload            | it is verified, but unreadable                       | 1    | 400  |
| │ │ └ ForeignAccount      | its key does not speak for the account that it names | 1    | 403  |
| │ └ PayloadTooLarge       | larger than its limit                                | 1    | 413  |
| ├ LogError                | the event log                                        | 3    | 503  |
| │ ├ LogUnavailable        | nothing was written; it may be tried again           | 3    | 503  |
| │ ├ LogFailed             | an fsync failed: the process must end, never a retry | 4    | 503  |
| │ └ PartitionLost         | a partition that belongs to another member now       | 3    | 503  |
| ├ StorageError            | the database                                         | 3    | 503  |
| │ └ StorageUnavailable    | it can't be reached; may be tried again              | 3    | 503  |
| ├ RequestError            | what a user asked for can't be done                  | 1    | 400  |
| │ ├ Unauthorized          | no token, or one that is not valid                   | 1    | 401  |
| │ ├ LimitReached          | the account's plan has no room for it                | 1    | 402  |
| │ ├ Forbidden             | the token has not the scope                          | 1    | 403  |
| │ ├ NotFound              | the account has no such thing                        | 1    | 404  |
| │ ├ MethodNotAllowed      | the path has other methods                           | 1    | 405  |
| │ ├ Conflict              | not in the present state, or it is taken             | 1    | 409  |
| │ ├ TooLarge              | the body is larger than is taken                     | 1    | 413  |
| │ ├ UnsupportedMedia      | the body is encoded in a way that is not taken       | 1    | 415  |
| │ ├ Invalid               | a field is missing or wrong                          | 2    | 422  |
| │ ├ TooMany               | too many requests                                    | 3    | 429  |
| │ ├ InternalError         | a fault of ours: the log says more                   | 1    | 500  |
| │ ├ NotSupported          | documented, but not done here (yet)                  | 1    | 501  |
| │ └ Unavailable           | can't be done now; may be tried again                | 3    | 503  |
| └ EffectError             | something done to the world outside                  | 1    | 503  |
|   ├ Transient             | it did not happen, may be tried again                | 3    | 503  |
|   ├ Ambiguous             | it may have happened: ask, never blindly repeat      | 3    | 503  |
|   └ Permanent             | it will never work as asked                          | 1    | 503  |

`exit`: of the command that it ends (`exit_code`). `HTTP`: the answer to a webhook (router/ingress),
of a RequestError that of the control API (router/api); 503 is what a retry can mend.

A message says what happened and where; what to do next is in the message too where it depends on
the case, and in the class's `remedy` where it does not. Adapters translate the errors of their
libraries (`raise … from`). A message never holds a secret, a phone number or a payload.
"""

from collections.abc import Sequence
from typing import ClassVar


class SwitchboardError(Exception):
    """Root of the tree above."""

    exit_code: ClassVar[int] = 1
    remedy: ClassVar[str] = "Is everything in place?  switchboard doctor"


class ConfigError(SwitchboardError):
    """A setting, an argument or a file is wrong. `key` is a setting's dotted path.

    What to do depends on the case, so the message says it.
    """

    exit_code = 2
    remedy = ""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class WebhookError(SwitchboardError):
    """What a provider sent can't be taken."""

    remedy = "The log line webhook.refused of the instance says more; so does  switchboard doctor"


class BadSignature(WebhookError):
    """The sender can't prove who it is. The message says why, without the signature."""

    remedy = 'See "Signatures fail" in docs/OPERATIONS.md, and  switchboard doctor'


class BadPayload(WebhookError):
    """Verified but unreadable. The message names the field, never its value."""


class ForeignAccount(BadPayload):
    """Verified, with a key that does not speak for the account at the provider that it names."""


class PayloadTooLarge(WebhookError):
    """Larger than its kind of webhook ever is, or than `http.max_body_bytes`."""

    remedy = "Raise http.max_body_bytes if a provider really sends so much"


class LogError(SwitchboardError):
    """The event log."""

    exit_code = 3
    remedy = "Is the log reachable (data_dir, kafka.bootstrap_servers)?  switchboard doctor"


class LogUnavailable(LogError):
    """Nothing was written (disk full, queue full, closing); the sender may try again."""

    remedy = "Nothing was written: free disk space in data_dir if that is short, then try again"


class LogFailed(LogError):
    """A failed fsync: what the disk holds is unknown, so the process must end."""

    exit_code = 4
    remedy = (
        "Look at the disk, and keep the journal: what was answered is in it. See "
        '"The journal failed" in docs/OPERATIONS.md'
    )


class PartitionLost(LogError):
    """`partitions` (topic, number) belong to another member of the group now: not committed."""

    remedy = "Another process does this work now; try again if none does"

    def __init__(self, message: str, *, partitions: Sequence[tuple[str, int]]) -> None:
        super().__init__(message)
        self.partitions = partitions


class StorageError(SwitchboardError):
    """The database."""

    exit_code = 3
    remedy = "Is the database (database.url) the right one, and up to date?  switchboard doctor"


class StorageUnavailable(StorageError):
    """The database can't be reached; a retry may work.

    Nothing was written, unless the connection broke during the commit itself: then nobody knows,
    and what is repeated must be safe to repeat.
    """

    remedy = "When that is mended, try again"


class RequestError(SwitchboardError):
    """What a user of the control plane asked for can't be done; each dialect says it in its shape.

    `code` is a short word for programs, such as `phone_number_limit_reached`.
    """

    remedy = ""
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Unauthorized(RequestError):
    """No token, or one that is malformed, unknown, expired or revoked."""

    status = 401


class LimitReached(RequestError):
    """The account's plan has no room for it."""

    status = 402


class Forbidden(RequestError):
    """The token has not the scope that this needs."""

    status = 403


class NotFound(RequestError):
    """The account has no such thing: it is not there, or it is another's, which looks the same."""

    status = 404


class MethodNotAllowed(RequestError):
    """The path is known, the method is not one of `allow`."""

    status = 405

    def __init__(self, message: str, *, allow: Sequence[str] = (), code: str = "") -> None:
        super().__init__(message, code=code)
        self.allow = allow


class Conflict(RequestError):
    """It can't be done in the present state, or a name or number is taken."""

    status = 409


class TooLarge(RequestError):
    """The body is larger than is taken."""

    status = 413


class UnsupportedMedia(RequestError):
    """The body is compressed, or framed in a way that is not taken."""

    status = 415


class Invalid(RequestError):
    """A field is missing or wrong.

    `problems`: where it is (`("body", "config", 0)`), and why. `kinds`: for each of them a word for
    programs, as pydantic has them: `missing`, `int_parsing`; `value_error` where none is given.
    """

    exit_code = 2
    status = 422

    def __init__(
        self,
        *problems: tuple[tuple[str | int, ...], str],
        code: str = "",
        kinds: Sequence[str] = (),
    ) -> None:
        words = "; ".join(
            f"{'.'.join(map(str, where[1:] or where))}: {why}" for where, why in problems
        )
        super().__init__(words, code=code)
        self.problems = problems
        self.kinds = kinds or ("value_error",) * len(problems)


class TooMany(RequestError):
    """Too many requests; `retry_after` seconds from now there is room again."""

    exit_code = 3
    status = 429

    def __init__(self, message: str, *, retry_after: float, code: str = "") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class InternalError(RequestError):
    """A fault of ours. The message tells nothing of it: the log does, under the request's id."""

    status = 500


class NotSupported(RequestError):
    """It is documented, but not done here (yet)."""

    status = 501


class Unavailable(RequestError):
    """It can't be done now, `retry_after` seconds from now it may."""

    exit_code = 3
    status = 503

    def __init__(self, message: str, *, retry_after: float = 1.0, code: str = "") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class EffectError(SwitchboardError):
    """Something done to the world outside (LiveKit, a carrier, an endpoint)."""


class Transient(EffectError):
    """It did not happen and may be tried again, `retry_after` seconds from now where known."""

    exit_code = 3
    remedy = "It did not happen: try again. If that does not help:  switchboard doctor"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Ambiguous(EffectError):
    """A time-out or a lost answer: it may or may not have happened. Ask before repeating."""

    exit_code = 3
    remedy = "It may have happened all the same: look before you repeat it"


class Permanent(EffectError):
    """It will never work as asked: refused, not found, forbidden. `code` is the carrier's own."""

    remedy = "The same will fail again: change what it refuses first.  switchboard doctor"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code
