"""The journal's own benchmark (`bench.journal`), with Kafka behind it and with kill -9."""

import re
import subprocess
import sys

from bench.report import Part, verdict
from tests.support.servers import kafka

_KILLS = 20
_TIMEOUT = 300.0  # seconds
_LOST = re.compile(r"([\d,]+) acknowledged, (\d+) lost")


def run(seconds: float) -> Part:
    with kafka.kafka_server() as broker:
        told = subprocess.run(
            [
                *(sys.executable, "-m", "bench.journal"),
                *("--seconds", str(seconds), "--kill-rounds", str(_KILLS)),
                *("--kafka", broker.bootstrap),
            ],
            stdout=subprocess.PIPE,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        ).stdout
    found = _LOST.search(told)
    if found is None:
        raise RuntimeError("bench.journal no longer says what was lost")
    lines = [
        "```",
        told.rstrip(),
        "```",
        "",
        verdict(
            "no acknowledged event is lost when the process is killed (SIGKILL)",
            met=int(found[2]) == 0,
            found=f"{found[2]} of {found[1]} in {_KILLS} rounds",
        ),
        "Writers and journal share a process and all cores. `replicated` has each event in Kafka "
        "too (one broker on the same machine).\n",
    ]
    return Part("journal", "Journal: acknowledged events by writers, and kill -9", lines)
