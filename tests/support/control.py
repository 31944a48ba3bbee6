"""What the tests of agents and numbers look at: orders, routes as the log tells them, time."""

from dataclasses import replace

import msgspec
from sqlalchemy import select, update

from router.control import numbers
from router.control.context import Control
from router.control.model import Actor, Number
from router.events.types import ROUTES_TOPIC
from router.routing.table import Route, RouteTable
from router.storage import mapping, outbox
from router.storage.engine import Database
from router.storage.records import version_of
from router.storage.schema import orders
from router.storage.sql import micros
from tests.support.fake_inventory import FakeCarrier

SID = "AC" + "0f" * 16


def with_carrier(control: Control, carrier: FakeCarrier) -> Control:
    """The same, of an operator who has an account at Twilio, which is `carrier`."""
    twilio = control.settings.providers.twilio.model_copy(update={"account_sid": SID})
    providers = control.settings.providers.model_copy(update={"twilio": twilio})
    settings = control.settings.model_copy(update={"providers": providers})
    return replace(control, settings=settings, open_inventory=carrier.open)


async def ordered(db: Database) -> list[str]:
    """The numbers that are under way at a carrier."""
    async with db.read() as connection:
        return sorted((await connection.execute(select(orders.c.number))).scalars())


async def later(db: Database, seconds: float) -> None:
    """As if so much time had passed since every order was written."""
    earlier = {
        column: column - micros(seconds) for column in (orders.c.due_at, orders.c.created_at)
    }
    async with db.write() as connection:
        await connection.execute(update(orders).values(earlier))


async def follow(db: Database, table: RouteTable) -> RouteTable:
    """What an ingress knows that has read all of the log."""
    while entries := await outbox.pending(db, 1000):
        for entry in entries:
            if entry.topic != ROUTES_TOPIC:
                continue
            if entry.value is not None:
                table.put(msgspec.json.decode(entry.value, type=Route))
            elif (version := version_of(entry.headers)) is not None:
                table.remove(entry.key, version)
        await outbox.done(db, [entry.id for entry in entries])
    assert table.fingerprint == await mapping.fingerprint(db)
    return table


async def all_of(control: Control, actor: Actor) -> list[Number]:
    """Every number of an account, those that are being released too."""
    return list((await numbers.list_(control, actor, limit=1000, deleting=True)).items)
