"""Every error that Switchboard raises on purpose.

```
SwitchboardError
├── ConfigError           a setting is missing, unknown or dangerous; names the key and the mend
├── WebhookError          what a provider sent can't be taken
│   ├── BadSignature      it can't prove who sent it                                    → 403
│   ├── BadPayload        it is verified, but unreadable; names the field               → 400
│   └── PayloadTooLarge                                                                 → 413
├── LogError              the event log
│   ├── LogUnavailable    nothing was written; the sender may try again                 → 503
│   ├── LogFailed         an fsync failed: the process must end, it is never retried    → 503
│   └── PartitionLost     a commit for a partition that now belongs to another member
├── StorageError          the database
│   └── StorageUnavailable  can't be reached; may be tried again
└── EffectError           something done to the world outside
    ├── Transient         did not happen, may be tried again
    ├── Ambiguous         may or may not have happened: ask, never blindly repeat
    └── Permanent         will never work as asked
```

Adapters translate the errors of their libraries (`raise … from`). A message never holds a secret,
a phone number or a payload.
"""


class SwitchboardError(Exception):
    """Root of the tree above."""


class ConfigError(SwitchboardError):
    """A setting is missing, unknown or dangerous. `key` is its dotted path."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class WebhookError(SwitchboardError):
    """What a provider sent can't be taken."""


class BadSignature(WebhookError):
    """The sender can't prove who it is. The message says why, without the signature."""


class BadPayload(WebhookError):
    """Verified but unreadable. The message names the field, never its value."""


class PayloadTooLarge(WebhookError):
    """Larger than its kind of webhook ever is, or than `http.max_body_bytes`."""


class LogError(SwitchboardError):
    """The event log."""


class LogUnavailable(LogError):
    """Nothing was written (disk full, queue full, closing); the sender may try again."""


class LogFailed(LogError):
    """A failed fsync: what the disk holds is unknown, so the process must end."""


class PartitionLost(LogError):
    """The partition belongs to another member of the group now; the commit was not taken."""


class StorageError(SwitchboardError):
    """The database."""


class StorageUnavailable(StorageError):
    """The database can't be reached; a retry may work.

    Nothing was written, unless the connection broke during the commit itself: then nobody knows,
    and what is repeated must be safe to repeat.
    """


class EffectError(SwitchboardError):
    """Something done to the world outside (LiveKit, a carrier, an endpoint)."""


class Transient(EffectError):
    """It did not happen and may be tried again, `retry_after` seconds from now where known."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Ambiguous(EffectError):
    """A time-out or a lost answer: it may or may not have happened. Ask before repeating."""


class Permanent(EffectError):
    """It will never work as asked: refused, not found, forbidden. `code` is the carrier's own."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code
