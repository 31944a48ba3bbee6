"""`python -m tests.golden.write`: add what the corpus lacks, and bring docs/EVENTS.md up to date.

Files that are there are never written again. To take one back that was not released yet, delete it
first.
"""

from tests.golden import catalogue, records


def main() -> None:
    found = {**records.current(), **records.current_routes(), **records.current_schemas()}
    for path, content in found.items():
        if not path.exists():
            records.write(path, content)
            print("wrote", path.relative_to(records.FOLDER))
    catalogue.PAGE.write_text(catalogue.updated(catalogue.PAGE.read_text()))


if __name__ == "__main__":
    main()
