"""Connection overrides: the fragment of a webhook URL, `#rc=2&rp=all`, says how to call it.

Source: twilio.com/docs/usage/webhooks/webhooks-connection-overrides. The fragment is neither sent
nor signed. Without it: one retry, and only when no connection came about.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urldefrag

from router.sandbox.twilio.errors import RETRIEVAL_FAILED, TwilioError

_POLICIES: Final = frozenset({"4xx", "5xx", "ct", "rt", "all"})


@dataclass(frozen=True, slots=True)
class Overrides:
    """Time-outs in seconds, the number of retries, and what is retried."""

    connect: float = 5.0
    read: float = 15.0
    total: float = 15.0
    retries: int = 1
    policy: frozenset[str] = frozenset({"ct"})

    def retries_on(self, reason: str) -> bool:
        """Whether a failure of this kind is tried again."""
        return reason in self.policy or "all" in self.policy


def split(url: str) -> tuple[str, Overrides]:
    """The URL to request and sign, and what its fragment asks for.

    Raises:
        TwilioError: the fragment is outside of Twilio's limits.
    """
    target, fragment = urldefrag(url)
    given = {key: values[-1] for key, values in parse_qs(fragment).items()}
    try:
        overrides = Overrides(
            connect=_milliseconds(given, "ct", 5000, most=10_000),
            read=_milliseconds(given, "rt", 15_000, most=15_000),
            total=_milliseconds(given, "tt", 15_000, most=15_000),
            retries=_within(int(given.get("rc", "1")), 0, 5),
            policy=frozenset(given.get("rp", "ct").split(",")),
        )
    except ValueError as error:
        raise TwilioError(RETRIEVAL_FAILED, "a connection override is out of range") from error
    if not _POLICIES.issuperset(overrides.policy):
        raise TwilioError(RETRIEVAL_FAILED, f"rp knows {sorted(_POLICIES)}")
    return target, overrides


def _milliseconds(given: dict[str, str], key: str, default: int, *, most: int) -> float:
    return _within(int(given.get(key, default)), 100, most) / 1000


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"{value} is outside of {least} to {most}")
    return value
