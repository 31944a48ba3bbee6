"""`python -m tests.golden.write`: add what the corpus lacks, and bring docs/EVENTS.md up to date.

Files that are there are never written again. To take one back that was not released yet, delete it
first.
"""

import msgspec

from router.events import schema
from tests.golden import catalogue, records


def main() -> None:
    for path, golden in records.current().items():
        if not path.exists():
            records.write(path, golden)
            print("wrote", path.relative_to(records.FOLDER))
    path = records.schema_path(records.VERSION)
    if not path.exists():
        records.write(path, msgspec.json.decode(schema.document()))
        print("wrote", path.relative_to(records.FOLDER))
    catalogue.PAGE.write_text(catalogue.updated(catalogue.PAGE.read_text()))


if __name__ == "__main__":
    main()
