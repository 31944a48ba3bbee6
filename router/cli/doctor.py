"""`switchboard doctor`: is everything in place? One line a check, with the mend."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from config import ConfigProblem, Settings, check
from router.cli.context import (
    NO,
    ConfigOption,
    JsonOption,
    fail,
    local_url,
    print_json,
    reported,
    run,
    settings_of,
)
from router.cli.render import console, plain
from router.errors import EffectError, SwitchboardError
from router.eventlog.kafka_probe import probe_kafka
from router.providers.livekit import setup
from router.providers.livekit.client import open_livekit
from router.secrets import load_key, sip_credentials
from router.storage import migrate

Level = Literal["ok", "warning", "problem"]

_TIMEOUT: Final = 8.0  # seconds a check
_SKEW: Final = 60.0  # seconds; LiveKit's tokens and Telnyx's signatures allow a few minutes
_MARKS: Final = {
    "ok": "[green]ok[/green]",
    "warning": "[yellow]! [/yellow]",
    "problem": "[red]no[/red]",
}


class _Refused(msgspec.Struct, frozen=True):
    """Of /readyz: provider → the setting that refuses its webhooks."""

    refused: dict[str, str] = {}


class _Restored(msgspec.Struct, frozen=True):
    """Of the routes in /readyz."""

    restored: str = ""


class _Waiting(msgspec.Struct, frozen=True):
    """Of /readyz: what the running instance says about its database and its routes."""

    database: str = "ok"
    routes: _Restored = _Restored()


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    what: str
    level: Level
    words: str


def doctor(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check settings, data folder, clock, database, Kafka, LiveKit and the public URL."""
    with reported():
        settings = settings_of(config)
        findings = run(examine(settings))
        if json:
            print_json(findings)
        else:
            for finding in findings:
                words = finding.words.splitlines()
                console.print(f"{_MARKS[finding.level]} {finding.what:14} {plain(words[0])}")
                for line in words[1:]:
                    console.print(f"{'':17} {plain(line)}")
        bad = sum(finding.level == "problem" for finding in findings)
        if bad:
            raise fail(f"{bad} to mend" if bad > 1 else "one to mend", NO)


async def examine(settings: Settings) -> list[Finding]:
    """All checks at once, in their order."""
    checks: list[tuple[str, Callable[[Settings], Awaitable[Finding]]]] = [
        ("settings", _settings),
        ("data folder", _data_folder),
        ("clock", _clock),
        ("database", _database),
        ("Kafka", _kafka),
        ("LiveKit", _livekit),
        ("public URL", _public_url),
        ("routes", _routes),
        ("webhooks", _webhooks),
    ]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_bounded(what, one, settings)) for what, one in checks]
    return [task.result() for task in running]


async def _bounded(
    what: str, one: Callable[[Settings], Awaitable[Finding]], settings: Settings
) -> Finding:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await one(settings)
    except TimeoutError:
        return Finding(what, "problem", f"no answer within {_TIMEOUT:g} s")
    except SwitchboardError as error:
        return Finding(what, "problem", str(error))
    except OSError as error:  # the data folder's; those of the network are met where they arise
        return Finding(what, "problem", f"{error.filename or what}: {error.strerror or error}")


async def _settings(settings: Settings) -> Finding:
    try:
        check(settings)
    except ConfigProblem as problem:
        return Finding("settings", "problem", str(problem))
    return Finding("settings", "ok", f"roles {', '.join(settings.roles)}")


async def _data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    load_key(settings.secret_key.get_secret_value(), folder)
    free = shutil.disk_usage(folder).free
    if free < settings.journal.min_free_bytes:
        return Finding("data folder", "problem", f"{folder}: disk full, events are refused")
    return Finding("data folder", "ok", f"{folder}, {free / 2**30:.1f} GiB free")


async def _clock(settings: Settings) -> Finding:
    """Against the Date header of LiveKit, whose tokens are what a wrong clock breaks first."""
    if not settings.livekit.url:
        return Finding("clock", "warning", "nothing to compare with: livekit.url is not set")
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(_http(settings.livekit.url)) as answer:
                theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (aiohttp.ClientError, KeyError, ValueError):
            return Finding("clock", "warning", "LiveKit did not say what time it is")
    skew = time.time() - theirs
    level: Level = "ok" if abs(skew) < _SKEW else "problem"
    return Finding("clock", level, f"{skew:+.0f} s against LiveKit")


async def _database(settings: Settings) -> Finding:
    await migrate.check(settings)
    kind = urlsplit(settings.database_url).scheme.partition("+")[0]
    return Finding("database", "ok", f"{kind}, schema up to date")


async def _kafka(settings: Settings) -> Finding:
    if not settings.has_kafka:
        return Finding("Kafka", "ok", "not used: the journal alone (kafka.bootstrap_servers)")
    return Finding("Kafka", "ok", await probe_kafka(settings.kafka))


async def _livekit(settings: Settings) -> Finding:
    if not settings.livekit.url:
        return Finding("LiveKit", "problem", "livekit.url is not set")
    key = load_key(settings.secret_key.get_secret_value(), settings.data_dir)
    try:
        async with open_livekit(settings.livekit) as client:
            wrong = await setup.inspect(client, sip_credentials(key))
    except EffectError as error:
        return Finding("LiveKit", "problem", str(error))
    if wrong:
        return Finding("LiveKit", "warning", "; ".join(wrong))
    return Finding("LiveKit", "ok", f"{settings.livekit.url}, SIP trunk and rule in place")


async def _public_url(settings: Settings) -> Finding:
    if not settings.public_url:
        return Finding("public URL", "problem", "public_url is not set")
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{settings.public_url}/healthz") as answer:
                if answer.status == 200 and await answer.text() == "ok":
                    return Finding("public URL", "ok", f"{settings.public_url} leads here")
                words = (
                    f"{settings.public_url}/healthz answered {answer.status}, not by Switchboard"
                )
        except aiohttp.ClientError as error:
            words = f"{settings.public_url} can't be reached: {type(error).__name__}"
    return Finding("public URL", "warning", f"{words} (from here; is it running?)")


async def _routes(settings: Settings) -> Finding:
    """Whether the running instance can use its database, and takes its routes from it."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{local_url(settings)}/readyz") as answer:
                facts = msgspec.json.decode(await answer.read(), type=_Waiting)
        except (aiohttp.ClientError, ValueError):  # or another program's
            return Finding("routes", "ok", "no instance runs here that could say more")
    if facts.database != "ok":
        return Finding("routes", "problem", f"the instance waits: {facts.database}")
    if facts.routes.restored:
        return Finding("routes", "problem", facts.routes.restored)
    return Finding("routes", "ok", "as the database has them")


async def _webhooks(settings: Settings) -> Finding:
    """What the running instance has learnt from webhooks that it had to refuse."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{local_url(settings)}/readyz") as answer:
                facts = msgspec.json.decode(await answer.read(), type=_Refused)
        except (aiohttp.ClientError, ValueError):  # or another program's
            return Finding("webhooks", "ok", "no instance runs here that could say more")
    if facts.refused:
        words = "\n".join(f"{name}: {hint}" for name, hint in sorted(facts.refused.items()))
        return Finding("webhooks", "problem", words)
    return Finding("webhooks", "ok", "none refused that a setting would let in")


def _http(url: str) -> str:
    return url.replace("ws", "http", 1) if url.startswith("ws") else url
