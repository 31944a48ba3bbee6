"""A bare produce–consume–call: the webhook goes to Kafka, a consumer of it calls LiveKit."""

import asyncio
import json
from typing import Any

import aiohttp
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from livekit.api import AccessToken, VideoGrants
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest

from bench.bare import TOPIC, answer, listen, verify
from bench.child import run_child, say
from bench.livekit import KEY, SECRET
from bench.twilio import PATH

_METHOD = "/twirp/livekit.AgentDispatchService/CreateDispatch"


async def main(spec: dict[str, Any], stop: asyncio.Event) -> None:
    """`spec`: public_url, port, bootstrap, livekit_url."""
    bootstrap = spec["bootstrap"]
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0
    )
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap, group_id="bench")
    await producer.start()
    await consumer.start()

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        form = verify(spec["public_url"], request, body)
        sid = form["CallSid"]
        await producer.send_and_wait(TOPIC, key=sid.encode(), value=json.dumps(form).encode())
        return answer()

    app = web.Application()
    app.router.add_post(PATH, handle)
    runner, port = await listen(app, spec["port"])
    async with aiohttp.ClientSession() as session:
        consuming = asyncio.create_task(_consume(consumer, session, spec["livekit_url"] + _METHOD))
        while not consumer.assignment():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
        say({"port": port})
        await stop.wait()
        consuming.cancel()
    await runner.cleanup()
    await consumer.stop()
    await producer.stop()


async def _consume(consumer: AIOKafkaConsumer, session: aiohttp.ClientSession, url: str) -> None:
    calls: set[asyncio.Task[None]] = set()
    async for message in consumer:
        form = json.loads(message.value)
        call = asyncio.create_task(_dispatch(session, url, form["CallSid"], message.value.decode()))
        calls.add(call)
        call.add_done_callback(calls.discard)


async def _dispatch(session: aiohttp.ClientSession, url: str, room: str, metadata: str) -> None:
    token = AccessToken(KEY, SECRET).with_grants(VideoGrants(room_admin=True, room=room)).to_jwt()
    request = CreateAgentDispatchRequest(agent_name="anna", room=room, metadata=metadata)
    async with session.post(
        url,
        data=request.SerializeToString(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/protobuf"},
    ) as response:
        response.raise_for_status()


if __name__ == "__main__":
    run_child(main)
