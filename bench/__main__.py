"""`python -m bench [NAME …] [--seconds N]`: measure, and write `bench/RESULTS.md`."""

import argparse
import os
from collections.abc import Callable

from bench import (
    account,
    api,
    decision,
    dispatch,
    durability,
    ingress,
    mapping,
    providers,
    report,
    strangers,
    visible,
)
from bench.child import cores

ORDER = (
    *("ingress", "providers", "strangers", "dispatch", "decision", "mapping", "journal"),
    *("api", "visible", "account"),
)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("names", nargs="*", help=f"of {', '.join(ORDER)}; default: all")
    arguments.add_argument(
        "--seconds", type=float, default=2.0, help="of one round of load; default 2"
    )
    given = arguments.parse_args()
    unknown = set(given.names) - set(ORDER)
    if unknown:
        arguments.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    seconds: float = given.seconds
    pinned = cores()
    os.sched_setaffinity(0, {pinned[1]})
    runs: dict[str, Callable[[], report.Part]] = {
        "ingress": lambda: ingress.run(seconds, pinned),
        "providers": lambda: providers.run(seconds, pinned),
        "strangers": lambda: strangers.run(2 * seconds, pinned),
        "dispatch": lambda: dispatch.run(2 * seconds, pinned),
        "decision": lambda: decision.run(pinned),
        "mapping": lambda: mapping.run(pinned),
        "journal": lambda: durability.run(seconds),
        "api": lambda: api.run(seconds, pinned),
        "visible": lambda: visible.run(pinned),
        "account": lambda: account.run(pinned),
    }
    for name in [name for name in ORDER if not given.names or name in given.names]:
        print(f"{name} …", flush=True)
        part = runs[name]()
        print("\n".join(part.lines))
        report.write(part, f"python -m bench {name} --seconds {seconds:g}", order=ORDER)


if __name__ == "__main__":
    main()
