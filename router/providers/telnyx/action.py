"""The path that Telnyx asks after a `<Dial>`: which dial it was, and which number had been called.

The body does not say: field reports have `To` = what was dialled, and a query that got lost. So it
is in the path, `/texml/dial/agent/14155550100/<proof>`; "0" stands for what is no E.164 number. But
Telnyx signs the body alone. Whoever replays a webhook within its 300 seconds could put another
number's digits in, and the caller would be sent to that number's fallback. Hence the proof: an HMAC
that only those can make who know our SIP trunk's credentials, that is our nodes (all have the same
`secret_key`) and the carriers. It holds for each call to the number; of which call a request is,
the body says.
"""

import hmac
import re
from hashlib import sha256
from typing import Final, Literal, NamedTuple, cast

from router.errors import BadPayload
from router.events.phone import is_e164
from router.secrets import verifying_key

DialStage = Literal["agent", "fallback"]

ENDPOINT: Final = "/texml/dial/{stage}/{called}/{proof}"

_PATH: Final = re.compile(
    r".*/texml/dial/(agent|fallback)/(0|[1-9][0-9]{6,14})/([0-9a-f]{32})", re.ASCII | re.DOTALL
)
_PROOF_LENGTH: Final = 32  # hex digits: 128 bits


class Dialled(NamedTuple):
    """What a path says."""

    stage: DialStage
    called: str  # E.164, "" for what is none


class Actions:
    """Makes and reads these paths.

    Args:
        secret: the password of our SIP trunk.
    """

    def __init__(self, secret: str) -> None:
        self._key = verifying_key(secret, "secret_key")

    def path(self, stage: DialStage, called: str) -> str:
        """Behind /webhooks/telnyx; letters, digits and slashes."""
        digits = called[1:] if is_e164(called) else "0"
        return f"/texml/dial/{stage}/{digits}/{self._proof(stage, digits)}"

    def read(self, target: str) -> Dialled:
        """What the target of a request says. Raises BadPayload for a path that is none of ours."""
        found = _PATH.fullmatch(target.partition("?")[0])
        if found is None or not hmac.compare_digest(found[3], self._proof(found[1], found[2])):
            raise BadPayload(
                "the path was not made here: it was changed on its way, or secret_key has changed "
                "or is not the same on every node"
            )
        return Dialled(cast("DialStage", found[1]), "" if found[2] == "0" else f"+{found[2]}")

    def _proof(self, stage: str, digits: str) -> str:
        message = f"telnyx texml dial {stage} {digits}".encode()
        return hmac.new(self._key, message, sha256).hexdigest()[:_PROOF_LENGTH]
