"""`python -m tests.support.servers [--required]`: prepare the real servers that tests start.

Builds what is pinned under `assets/` and says, server by server, what is ready and what is missing.
It installs no system package. `--required`: exit code 1 if anything is missing.
"""

import argparse
import sys

from tests.support.servers import build, inventory


def main() -> int:
    """Build, look, tell."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--required", action="store_true", help="fail if anything is missing")
    required: bool = arguments.parse_args().required

    complete = True
    for recipe in build.RECIPES:
        try:
            build.build(recipe)
        except build.BuildFailed as error:
            complete = False
            print(f"{recipe.name} {recipe.version}: not built: {error}", file=sys.stderr)
    for name in inventory.NAMES:
        found = inventory.find(name)
        if isinstance(found, inventory.Missing):
            complete = False
            print(f"{name:9} missing  {found}")
        else:
            print(f"{name:9} ready    {found.version:8} {found.path}")
    return 1 if required and not complete else 0


if __name__ == "__main__":
    sys.exit(main())
