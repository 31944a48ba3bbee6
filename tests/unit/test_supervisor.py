"""What ends is started again, and is seen. In virtual time."""

import asyncio
from itertools import pairwise

import pytest

from router.errors import LogFailed, LogUnavailable
from router.observability.metrics import REGISTRY
from router.supervisor import GroupState, Supervisor
from tests.support import fake_time
from tests.support.fake_time import FakeClock


def restarts(task: str) -> float:
    return REGISTRY.get_sample_value("switchboard_task_restarts_total", {"task": task}) or 0.0


@pytest.mark.parametrize("end", ["error", "return", "cancelled", "group"])
def test_a_task_that_ends_is_started_again_and_ends_the_process_where_that_does_not_help(
    end: str,
) -> None:
    async def scenario() -> None:
        starts: list[float] = []

        async def work() -> None:
            starts.append(asyncio.get_running_loop().time())
            match end:
                case "error":
                    raise OSError("too many open files: +14155550100")
                case "cancelled":  # as a library's own task may end in ours
                    raise asyncio.CancelledError
                case "group":
                    raise ExceptionGroup("", [LogUnavailable("disk is full")])
                case _:
                    return

        supervisor = Supervisor(FakeClock())
        before = restarts("test")
        async with supervisor.running({"test": work}):
            await asyncio.sleep(0.6)
            early = (supervisor.failing, supervisor.gave_up)
            await asyncio.sleep(30.0)
        assert early == (True, None)
        gaps = [b - a for a, b in pairwise(starts)]
        assert len(gaps) == 5 == restarts("test") - before
        assert all(0.05 * 2**n <= gap <= 0.1 * 2**n for n, gap in enumerate(gaps))
        assert supervisor.gave_up is not None
        facts = supervisor.facts()["test"]
        assert facts["failing"]
        assert "1415" not in facts["why"]

    fake_time.run(scenario())


def test_a_task_that_works_again_is_forgiven() -> None:
    async def scenario() -> None:
        left = [5]

        async def work() -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise ValueError
            await asyncio.Event().wait()

        supervisor = Supervisor(FakeClock())
        failing = []
        async with supervisor.running({"test": work}):
            for seconds in (5.0, 61.0):
                await asyncio.sleep(seconds)
                failing.append(supervisor.failing)
        assert failing == [True, False]
        assert supervisor.gave_up is None
        assert supervisor.facts()["test"]["restarts"] == 5

    fake_time.run(scenario())


@pytest.mark.parametrize("error", [LogFailed("fsync"), ExceptionGroup("", [LogFailed("fsync")])])
def test_a_failed_disk_is_passed_on(error: Exception) -> None:
    async def scenario() -> None:
        async def work() -> None:
            raise error

        with pytest.raises(type(error)):
            await Supervisor(FakeClock()).keep("test", work)

    fake_time.run(scenario())


def test_cancelling_ends_it_also_in_a_pause() -> None:
    async def scenario() -> None:
        async def work() -> None:
            raise ValueError

        task = asyncio.create_task(Supervisor(FakeClock()).keep("test", work))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    fake_time.run(scenario())


def test_a_stop_ends_the_pause_and_what_returns_then_is_done() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()

        async def broken() -> None:
            raise ValueError

        async def good() -> None:
            await stop.wait()

        async def one_look() -> None:
            pass

        supervisor = Supervisor(FakeClock())
        await supervisor.keep("once", one_look, once=True)
        tasks = [
            asyncio.create_task(supervisor.keep(name, work, stop=stop))
            for name, work in (("broken", broken), ("good", good))
        ]
        await asyncio.sleep(0.5)
        stop.set()
        before = asyncio.get_running_loop().time()
        await asyncio.gather(*tasks)
        assert asyncio.get_running_loop().time() - before < 0.1
        assert set(supervisor.facts()) == {"broken"}

    fake_time.run(scenario())


def test_a_group_that_hears_nothing_or_is_stuck_is_not_healthy() -> None:
    assert GroupState(unread=0, silent=5.0, in_flight=3, oldest=5.0).healthy
    assert not GroupState(unread=0, silent=13.0, in_flight=0, oldest=0.0).healthy
    assert not GroupState(unread=0, silent=0.0, in_flight=1, oldest=61.0).healthy
