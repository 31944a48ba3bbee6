"""What the transcripts of the carriers' calls are made of.

| step               | what happened                                                        |
|--------------------|----------------------------------------------------------------------|
| `webhook.sent`     | the carrier asks what becomes of the call                            |
| `webhook.answered` | and has an answer                                                    |
| `callback.sent`    | the carrier told what happened; nobody waits for the answer          |
| `command.received` | a carrier that takes commands got one                                |
| `dial.ringing`     | the dialled end rings                                                |
| `dial.answered`    | it answered                                                          |
| `dial.ended`       | the dial is over, with `status` and `sip_status`                     |
| `said`             | the caller heard a text                                              |
| `caller.hung_up`   | the caller left                                                      |
| `error`            | the carrier can't go on as it was told                               |
| `call.ended`       | it is over, and everything about it was sent                         |

The carriers have more of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from router.errors import SwitchboardError


class NotInService(SwitchboardError):
    """Nobody has the number that is called, or nothing answers it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened; `at` in monotonic seconds."""

    at: float
    what: str
    detail: Mapping[str, str | int | float]
