"""The topics that Switchboard owns and how each is cleaned up; one table for journal and Kafka."""

from typing import Final, Literal, NamedTuple

from router.events.types import (
    CALLS_TOPIC,
    CONNECTIONS_TOPIC,
    HEALTH_TOPIC,
    NUMBERS_TOPIC,
    ROUTES_TOPIC,
    dead_topic,
)

Cleanup = Literal["delete", "compact"]


class Topic(NamedTuple):
    """`compact` keeps the newest record of each key for ever, `delete` all of them for a time."""

    name: str
    cleanup: Cleanup


TOPICS: Final = (
    Topic(CALLS_TOPIC, "delete"),
    Topic(NUMBERS_TOPIC, "delete"),
    Topic(ROUTES_TOPIC, "compact"),
    Topic(dead_topic(CALLS_TOPIC), "delete"),
    Topic(dead_topic(NUMBERS_TOPIC), "delete"),
    Topic(dead_topic(ROUTES_TOPIC), "delete"),
)
INTERNAL: Final = (Topic(HEALTH_TOPIC, "compact"), Topic(CONNECTIONS_TOPIC, "compact"))
"""Between our own processes, and no part of the published contract; made by who first needs it."""

COMPACTED: Final = frozenset(
    topic.name for topic in (*TOPICS, *INTERNAL) if topic.cleanup == "compact"
)


def cleanup(topic: str) -> Cleanup:
    """The policy of a topic; one that is not in the table is never compacted."""
    return "compact" if topic in COMPACTED else "delete"
