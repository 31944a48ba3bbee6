"""Ids in LiveKit's form: a prefix and twelve characters, `RM_gRowoyHrR4jn`."""

import secrets
from typing import Final

# Without the letters and digits that people mix up, as LiveKit does.
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

ROOM: Final = "RM_"
PARTICIPANT: Final = "PA_"
TRACK: Final = "TR_"
EVENT: Final = "EV_"
DISPATCH: Final = "AD_"
JOB: Final = "AJ_"
TRUNK: Final = "ST_"
RULE: Final = "SDR_"
CALL: Final = "SCL_"


def new_id(prefix: str = "") -> str:
    """A new random id."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(12))
