"""Switchboard's own dialect: everything that the control plane can do, in plain shapes."""

from router.api.native import accounts, agents, calls, connections, numbers
from router.api.native.shapes import BASE, Problem, refuse
from router.api.operation import Dialect

DIALECT = Dialect(
    name="native",
    base=BASE,
    title="Switchboard",
    version="1",
    description="Accounts, tokens, connections, agents, numbers, calls, usage and audit. Lists are "
    "`{items, total, next}`; errors are problem details (RFC 9457) that name each wrong field.",
    operations=[
        *accounts.OPERATIONS,
        *connections.OPERATIONS,
        *agents.OPERATIONS,
        *numbers.OPERATIONS,
        *calls.OPERATIONS,
    ],
    refuse=refuse,
    errors=dict.fromkeys(
        (400, 401, 402, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503), Problem
    ),
)
