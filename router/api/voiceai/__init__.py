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
    description="The shape of voice.ai's Developer API: phone numbers, agents, call history. Its "
    "clients work with this installation's address and a token of an account. An agent's "
    "`config.phone_number` is the number that leads to it now: it is empty as soon as that is "
    "released, or moved to another agent. A pause stops the calls and keeps the number, which can "
    "be released then. Calls out, knowledge bases and templates are not served.",
    operations=(*numbers.OPERATIONS, *calls.OPERATIONS, *agents.OPERATIONS),
    refuse=refuse,
    errors=ERRORS,
)
