"""One call starts one agent, and comes to its end, whatever fails, dies or is repeated.

Seeded histories of up to three processes over one log, one database and one LiveKit: dispatches
that are lost, refused for now, swallowed or late; events that are read again and by the wrong
process; processes that die at any moment or stop in order; a database and a LiveKit that go away.
After half a minute everything works again, as it does in the end.
"""

import asyncio
from random import Random

from hypothesis import given, note, settings
from hypothesis import strategies as st

from router.events.types import EventType as T
from tests.support import fake_time
from tests.support.fake_dispatch import Process, World
from tests.support.fake_events import event, initiated, new_call
from tests.support.fake_rooms import FakeRooms, Fate

_TROUBLE = 30.0  # seconds; less than the ring window
_FATES = [Fate.BUSY, Fate.LOST, Fate.SWALLOWED, Fate.TARDY]
_ENDS = ("ready", "missing", "expired", "over")


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), late=st.booleans())
def test_one_call_one_agent(seed: int, late: bool) -> None:
    """With `late`, LiveKit may also do what it was asked for long after it gave no answer."""
    note(f"seed {seed}, late {late}")
    fake_time.run(_history(Random(seed), late=late))


async def _history(random: Random, *, late: bool) -> None:
    calls = [new_call(f"history-{n}") for n in range(random.randint(1, 4))]
    trouble = [*_FATES, Fate.LATE_LOST, Fate.SLOW, Fate.STUBBORN] if late else _FATES
    ill = random.random()

    def fate() -> Fate:
        in_trouble = asyncio.get_running_loop().time() < _TROUBLE and random.random() < ill
        return random.choice(trouble) if in_trouble else Fate.WELL

    world = World(FakeRooms(fate=fate))
    if late or random.random() < 0.5:
        world.webhooks()
    ended = await _live(world, calls, random)
    await asyncio.sleep(100.0)  # two ring windows from the last trouble
    last = Process(world, "last")
    await asyncio.sleep(40.0)
    for call in calls:
        _check(world, call, ended=call in ended, late=late)
    if not late:
        assert all(agents <= 1 for _, agents in world.settled)
    await last.stop()


def _check(world: World, call: str, *, ended: bool, late: bool) -> None:
    state, agents = world.state(call), world.rooms.agents(call)
    # Never claimed: read when nobody rings any more, or together with its end.
    expired = T.CALL_EXPIRED in world.told(call)
    assert state in _ENDS or (state == "none" and (expired or ended))
    # No caller is in the room of a call that ended; else an agent without one would cost for ever.
    # But one that came although it was withdrawn may be the one that serves the caller.
    serves = late and not ended and world.rooms.inside(call) == 1
    assert agents == (1 if state == "ready" else 0) or serves
    assert not ended or state in ("over", "none")
    assert world.told(call).count(T.AGENT_MISSING) <= 1


async def _live(world: World, calls: list[str], random: Random) -> set[str]:
    """Half a minute of trouble; the calls that ended in it."""
    processes = [Process(world, "p0", random.randrange(99))]
    ended: set[str] = set()
    for call in calls:
        world.rooms.caller_joins(call)
        await world.tell(initiated(call, asyncio.get_running_loop().time()))
        await asyncio.sleep(random.choice([0.0, 0.01, 0.5]))
    while asyncio.get_running_loop().time() < _TROUBLE:
        await asyncio.sleep(random.choice([0.003, 0.01, 0.02, 0.3, 1.0, 5.0]))
        await _disturb(world, processes, random.choice(calls), random, ended)
    world.rooms.down = world.claims.unavailable = False
    for process in processes:
        await process.crash()
    return ended


async def _disturb(
    world: World, processes: list[Process], call: str, random: Random, ended: set[str]
) -> None:
    match random.randrange(8):
        case 0 if processes:
            await processes.pop(random.randrange(len(processes))).crash()
        case 1 if processes:
            await processes.pop(random.randrange(len(processes))).stop()
        case 2 | 3 if len(processes) < 3:
            processes.append(Process(world, f"p{random.random()}", random.randrange(99)))
        case 4 if processes:
            world.log.rewind("dispatch")
        case 5:
            world.rooms.down = random.random() < 0.3
        case 6:
            world.claims.unavailable = random.random() < 0.3
        case 7 if random.random() < 0.2:
            world.rooms.caller_leaves(call)
            await world.tell(event(call, T.CALL_ENDED, asyncio.get_running_loop().time()))
            ended.add(call)
        case _:
            pass
