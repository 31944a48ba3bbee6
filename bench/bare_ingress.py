"""A bare ingress: read, verify, make durable, answer. Durable in SQLite, or in Kafka."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import apsw
from aiohttp import web
from aiokafka import AIOKafkaProducer

from bench.bare import TOPIC, answer, listen, verify
from bench.child import run_child, say
from bench.twilio import PATH

Store = Callable[[str, bytes], Awaitable[object]]
Job = tuple["asyncio.Future[None]", str, bytes]


class GroupCommit:
    """The least that makes rows durable in groups: WAL, FULL, one thread, no timer."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._path = folder / "bare.db"
        threading.Thread(target=self._run, daemon=True).start()

    async def store(self, identity: str, body: bytes) -> None:
        """Durable on return."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((done, identity, body))
        await done

    def _run(self) -> None:
        db = apsw.Connection(str(self._path))
        db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=4096")  # pages, as the journal does
        db.execute("CREATE TABLE calls (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, body BLOB)")
        while True:
            batch = [self._queue.get()]
            try:
                while len(batch) < 512:
                    batch.append(self._queue.get_nowait())
            except Empty:
                pass
            with db:
                db.executemany(
                    "INSERT INTO calls (id, body) VALUES (?,?) ON CONFLICT DO NOTHING",
                    [(identity, body) for _, identity, body in batch],
                )
            self._loop.call_soon_threadsafe(_resolve, batch)


def _resolve(batch: list[Job]) -> None:
    for done, _, _ in batch:
        done.set_result(None)


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: public_url, and data_dir or bootstrap."""
    producer: AIOKafkaProducer | None = None
    store: Store
    if bootstrap := spec.get("bootstrap"):
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=262_144,
        )
        await producer.start()
        sending = producer

        async def send(identity: str, body: bytes) -> object:
            return await sending.send_and_wait(TOPIC, key=identity.encode(), value=body)

        store = send
    else:
        store = GroupCommit(Path(spec["data_dir"])).store

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        form = verify(spec["public_url"], request, body)
        await store(form["CallSid"], body)
        return answer()

    app = web.Application()
    app.router.add_post(PATH, handle)
    runner, port = await listen(app)
    say({"port": port})
    await stop.wait()
    await runner.cleanup()
    if producer is not None:
        await producer.stop()


if __name__ == "__main__":
    run_child(main)
