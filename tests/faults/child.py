"""A process that writes to a journal and says what was acknowledged, one id per line.

    python -m tests.faults.child FOLDER ROUND WRITERS

It ends when it is killed, or with the error's name when an append fails.
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from router.errors import LogError
from router.eventlog.open import open_log
from tests.support.kafka_records import append
from tests.support.kafka_settings import log_settings


async def main(folder: Path, turn: str, writers: int) -> None:
    async with open_log(log_settings(folder)) as log:

        async def write(writer: int) -> None:
            for number in count():
                identity = f"{turn}-{writer}-{number}"
                await append(log, "t", f"key-{writer}", identity)
                os.write(1, f"{identity}\n".encode())

        tasks = [asyncio.create_task(write(writer)) for writer in range(writers)]
        try:
            await asyncio.gather(*tasks)
        except LogError as error:
            os.write(1, f"! {type(error).__name__}\n".encode())
            await asyncio.sleep(0.3)  # whatever else would be acknowledged shows now
        finally:
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
