"""Of the native dialect."""

from tests.api.examples import Example
from tests.support.api import Client


async def things(client: Client) -> dict[str, str]:
    return {}


EXAMPLES = {"get_me": Example()}
