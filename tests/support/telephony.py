"""LiveKit with its SIP bridge and two agents, each with its own tone, for the end-to-end tests."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.nodes import free_port
from tests.support.servers.livekit import LiveKit, LiveKitSip, livekit_server, livekit_sip
from tests.support.servers.redis import redis_server
from tests.support.sip.agent import AgentWorker, agent_worker
from tests.support.sip.caller import SipResult

TONES = {"anna": 440.0, "bob": 880.0}


@dataclass(frozen=True)
class Telephony:
    """The real servers; LiveKit's webhooks go to `port`, where the node will be."""

    port: int
    livekit: LiveKit
    sip: LiveKitSip
    agents: dict[str, AgentWorker]


@contextmanager
def real_telephony() -> Iterator[Telephony]:
    """All of it, running."""
    port = free_port()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        webhook = f"http://127.0.0.1:{port}/webhooks/livekit"
        livekit = stack.enter_context(livekit_server(redis=redis, webhook_url=webhook))
        sip = stack.enter_context(livekit_sip(livekit, redis=redis))
        agents = {
            name: stack.enter_context(agent_worker(name, tone=tone, livekit=livekit))
            for name, tone in TONES.items()
        }
        yield Telephony(port, livekit, sip, agents)


def assert_hears_only(result: SipResult, agent: str) -> None:
    """The agent's tone stands far above every other one.

    Not by its share of the sound: ten calls on two cores make the media stutter, which is noise,
    but never another agent's tone.
    """
    scores = {name: result.audio.scores([tone])[tone] for name, tone in TONES.items()}
    right = scores.pop(agent)
    assert right > 0.02, (agent, right, result)
    assert right > 20 * max(scores.values()), (agent, right, scores)
