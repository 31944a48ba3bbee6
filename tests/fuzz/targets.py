"""The fuzzer's targets: everything that reads or verifies what others wrote.

Not among them: the sandbox's stand-ins (router/sandbox), which read what we write and only on
loopback, and replies of LiveKit's API, which its SDK reads.
"""

from collections.abc import Mapping
from itertools import chain

from tests.fuzz import answers, files, log, verifiers, webhooks
from tests.fuzz.target import Target


def targets() -> Mapping[str, Target]:
    """All of them, by name."""
    modules = (webhooks, verifiers, log, answers, files)
    return {target.name: target for target in chain.from_iterable(it.targets() for it in modules)}
