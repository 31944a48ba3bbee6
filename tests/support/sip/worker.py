"""`python -m tests.support.sip.worker`: a real agent that plays one tone to whoever is in its room.

It is livekit-agents as a user would write it, less the language model: it registers under its name,
takes every job, joins, publishes audio. It never leaves by itself, as real agents do that do not
watch for the caller. What it does is written to `--events`, one JSON object a line. Options make it
misbehave. URL and keys come from LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from livekit import rtc
from livekit.agents import AgentServer, AutoSubscribe, JobContext, JobExecutorType

_HOST: Final = "127.0.0.1"
_RATE: Final = 48_000  # Hz, what WebRTC carries
_FRAME: Final = 480  # samples: 10 ms
_VOLUME: Final = 8_000  # of 32,767


@dataclass(frozen=True)
class Options:
    """The command line."""

    agent_name: str
    tone: float
    events: Path
    never_publish: bool
    delay_join: float

    def note(self, event: str, **facts: str) -> None:
        """Add a line to the events; jobs run in threads of their own, so one write is one line."""
        line = {"event": event, "at": time.time_ns() // 1000, "pid": os.getpid(), **facts}
        with self.events.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_options() -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent-name", required=True)
    parser.add_argument("--tone", type=float, required=True, help="Hz")
    parser.add_argument("--events", type=Path, required=True, help="JSONL file to append to")
    parser.add_argument("--never-publish", action="store_true", help="join, but stay mute")
    parser.add_argument("--delay-join", type=float, default=0.0, help="seconds from job to joining")
    return Options(**vars(parser.parse_args()))


def session(options: Options) -> Callable[[JobContext], Awaitable[None]]:
    """What is done for each job."""

    async def run(job: JobContext) -> None:
        facts = {"room": job.job.room.name, "job_id": job.job.id, "metadata": job.job.metadata}
        options.note("job", **facts)
        await asyncio.sleep(options.delay_join)
        await job.connect(auto_subscribe=AutoSubscribe.SUBSCRIBE_NONE)  # it has no ears
        options.note("joined", **facts)
        if options.never_publish:
            return
        source = rtc.AudioSource(_RATE, 1, queue_size_ms=200)
        track = rtc.LocalAudioTrack.create_audio_track("tone", source)
        await job.room.local_participant.publish_track(
            track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        )
        options.note("published", **facts)
        await play(source, job.room, options.tone)
        options.note("left", **facts)

    return run


async def play(source: rtc.AudioSource, room: rtc.Room, tone: float) -> None:
    """Until the room is gone; the source's queue sets the pace."""
    start = 0
    while room.isconnected():
        moments = np.arange(start, start + _FRAME) / _RATE
        samples = (_VOLUME * np.sin(2 * np.pi * tone * moments)).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(samples.tobytes(), _RATE, 1, _FRAME))
        start += _FRAME


async def serve(options: Options) -> None:
    """Work until SIGTERM; jobs that still run are ended, not drained."""
    # The first use of livekit's native library makes its client, without a lock: two jobs at once
    # would make two, one would never hear that it is connected, and after 15 s the library ends the
    # whole worker (livekit/python-sdks issue 785).
    rtc.AudioSource(_RATE, 1)
    server = AgentServer(
        # A worker that calls itself full silently gets no job. On a busy machine its CPU says so,
        # and with a finite threshold an idle one takes only as many jobs at once as it has CPUs.
        load_fnc=lambda: 0.0,
        load_threshold=math.inf,
        job_executor_type=JobExecutorType.THREAD,
        host=_HOST,
        port=0,
    )
    server.rtc_session(session(options), agent_name=options.agent_name)

    @server.on("worker_registered")
    def _registered(worker_id: str, _server_info: object) -> None:
        options.note("registered", worker_id=worker_id)

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    work = asyncio.create_task(server.run())
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    await server.aclose()
    await work


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(read_options()))
