"""voice.ai's Developer API (document version 1.5.0): numbers, agents, call history."""

from typing import Final

from router.api.operation import Dialect
from router.api.voiceai import agents, calls, numbers
from router.api.voiceai.answers import ERRORS, refuse

DIALECT: Final = Dialect(
    name="voiceai",
    base="/api/v1",
    title="voice.ai",
    version="1.5.0",
    description="The shape of voice.ai's Developer API: phone numbers, agents, call history.",
    operations=(*numbers.OPERATIONS, *calls.OPERATIONS, *agents.OPERATIONS),
    refuse=refuse,
    errors=ERRORS,
)
