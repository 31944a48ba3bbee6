"""What the database promises to everything above it: whole transactions, its clock, our errors."""

import asyncio
import time

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from config import Settings
from router.errors import StorageError, StorageUnavailable
from router.events.types import ROUTES_TOPIC
from router.storage import outbox
from router.storage.engine import Database, open_database
from router.storage.leader import leader
from router.storage.schema import numbers, revision
from router.storage.sql import now_micros

SECRET_NUMBER = "+14155550123"


async def value(db: Database) -> int:
    async with db.read() as connection:
        return int((await connection.execute(select(revision.c.value))).scalar_one())


async def test_a_block_is_written_as_a_whole_or_not_at_all(db: Database) -> None:
    async def fail() -> None:
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=7))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await value(db) == 0
    async with db.write() as connection:
        await connection.execute(update(revision).values(value=7))
    assert await value(db) == 7


async def test_a_read_can_not_write(db: Database) -> None:
    with pytest.raises(StorageError):
        async with db.read() as connection:
            await connection.execute(update(revision).values(value=7))
    assert await value(db) == 0
    async with db.write() as connection:
        await connection.execute(update(revision).values(value=8))
    assert await value(db) == 8


async def test_a_cancelled_write_leaves_nothing_and_the_database_works_on(db: Database) -> None:
    inside = asyncio.Event()

    async def stuck() -> None:
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=7))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await value(db) == 0
    async with db.write() as connection:
        await connection.execute(update(revision).values(value=8))
    assert await value(db) == 8


async def test_a_transaction_that_takes_too_long_ends(db: Database) -> None:
    async def dawdle() -> None:
        async with db.write(limit=0.2) as connection:
            await connection.execute(update(revision).values(value=7))
            await asyncio.Event().wait()

    with pytest.raises(StorageUnavailable, match="longer than"):
        await dawdle()
    assert await value(db) == 0


async def test_a_time_out_of_the_block_itself_is_not_ours(db: Database) -> None:
    async def dawdle() -> None:
        async with db.write(), asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await dawdle()


async def test_writers_of_two_processes_take_turns(db: Database, other: Database) -> None:
    async def count(database: Database) -> None:
        async with database.write() as connection:
            query = select(revision.c.value).with_for_update()
            last = (await connection.execute(query)).scalar_one()
            await connection.execute(update(revision).values(value=last + 1))

    await asyncio.gather(*(count(db if n % 2 else other) for n in range(40)))
    assert await value(db) == 40


async def test_the_clock_is_utc_in_microseconds(db: Database) -> None:
    async with db.read() as connection:
        now = (await connection.execute(select(now_micros()))).scalar_one()
    assert isinstance(now, int)
    assert abs(now - time.time_ns() // 1000) < 5_000_000


async def test_an_error_does_not_repeat_the_values(db: Database) -> None:
    row = {
        "number": SECRET_NUMBER,
        "provider": "twilio",
        "agent": "nobody",
        "fallback": "",
        "rev": 1,
        "created_at": 1,
        "updated_at": 1,
    }
    with pytest.raises(StorageError) as caught:
        async with db.write() as connection:
            await connection.execute(insert(numbers), row)
    assert not isinstance(caught.value, StorageUnavailable)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET_NUMBER not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not isinstance(caught.value.__cause__, IntegrityError)


async def test_nonsense_is_an_error_that_is_not_worth_a_retry(db: Database) -> None:
    with pytest.raises(StorageError) as caught:
        async with db.read() as connection:
            await connection.execute(text("SELECT * FROM nowhere"))
    assert not isinstance(caught.value, StorageUnavailable)


async def test_what_was_written_is_there_when_opened_again(
    db: Database, settings: Settings
) -> None:
    async with db.write() as connection:
        await connection.execute(update(revision).values(value=7))
    async with open_database(settings) as again:
        assert await value(again) == 7


DRAFT = outbox.Draft(ROUTES_TOPIC, SECRET_NUMBER, None, {})


async def test_the_leader_is_told_of_what_others_put_into_the_outbox(
    db: Database, settings: Settings
) -> None:
    async with (
        asyncio.timeout(10),
        leader(db, "publish", listens=True),
        open_database(settings, filled=db.filled) as other,
    ):
        # Again and again at first: nobody hears what was told before it listened.
        while not db.filled.is_set():
            await outbox.post(other, [DRAFT])
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        for _ in range(3):
            db.filled.clear()
            await outbox.post(other, [DRAFT])
            await db.filled.wait()


async def test_only_what_is_committed_is_told(db: Database) -> None:
    async def fail() -> None:
        async with db.write() as connection:
            await outbox.add(connection, [DRAFT], now=1)
            raise ZeroDivisionError

    async with leader(db, "publish", listens=True):
        await asyncio.sleep(0.1)
        with pytest.raises(ZeroDivisionError):
            await fail()
        async with db.write() as connection:
            await connection.execute(update(revision).values(value=7))
        await asyncio.sleep(0.1)
        assert not db.filled.is_set()


async def test_a_job_has_a_leader(db: Database) -> None:
    async with leader(db, "job") as leading:
        assert leading
    async with leader(db, "job") as again:
        assert again
