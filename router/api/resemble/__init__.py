"""Resemble's agent phone numbers, and agents as far as these need them."""

from typing import Final

from router.api.operation import Dialect
from router.api.resemble import agents, numbers
from router.api.resemble.answers import ERRORS, refuse

DIALECT: Final = Dialect(
    name="resemble",
    base="/api/v2",
    title="Resemble",
    version="2",
    description="The shape of Resemble's API: agent phone numbers, and agents as far as their "
    "numbers need them. A number is one that is at Twilio already: its credentials are kept as a "
    "connection of the account, sealed, and never answered. Trunks are not set up yet: what is "
    "wished of them is kept, and inbound calls come by webhook.",
    operations=(*numbers.OPERATIONS, *agents.OPERATIONS),
    refuse=refuse,
    errors=ERRORS,
)
