"""`switchboard doctor`: is everything in place? One line a check, with the mend.

It is asked when something is wrong, so nothing that is wrong may end it: each check is bounded in
time, and an error that nobody foresaw is what that check has found.
"""

import asyncio
import logging
import shutil
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from config import ConfigProblem, Settings, UnreadableSettings, check
from router.cli.apply import account_of
from router.cli.context import (
    DEFAULT_NAME,
    NO,
    AccountOption,
    ConfigOption,
    JsonOption,
    fail,
    local_url,
    print_json,
    reported,
    run,
    target_of,
)
from router.cli.render import console, plain
from router.clock import SystemClock
from router.errors import EffectError, StorageError, SwitchboardError
from router.eventlog.kafka_probe import probe_kafka
from router.files import may_be_made
from router.providers.livekit import setup
from router.providers.livekit.client import open_livekit
from router.rest import reason
from router.runtime import sources
from router.secrets import KEY_FILE, find_key, sip_credentials
from router.storage import mapping, migrate
from router.storage.engine import Database, open_database

Level = Literal["ok", "warning", "problem"]
Check = Callable[[Settings], Awaitable["Finding"]]

_TIMEOUT: Final = 8.0  # seconds a check
_SKEW: Final = 60.0  # seconds; LiveKit's tokens and Telnyx's signatures allow a few minutes
_SHOWN: Final = 3  # numbers of a finding
_MARKS: Final = {
    "ok": "[green]ok[/green]",
    "warning": "[yellow]! [/yellow]",
    "problem": "[red]no[/red]",
}


class _Known(msgspec.Struct, frozen=True):
    """Of the connections in /readyz."""

    unreadable: int = 0


class _Ready(msgspec.Struct, frozen=True):
    """Of /readyz: its roles, and provider → the setting that refuses its webhooks."""

    roles: list[str]
    ready: bool = False
    refused: dict[str, str] = {}
    connections: _Known = _Known()


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


def doctor(
    account: AccountOption = DEFAULT_NAME, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Check settings, data folder, clock, database, Kafka, LiveKit and the public URL."""
    with reported(), _quiet():
        findings = _findings(config, account)
        if json:
            print_json(findings)
        else:
            _print(findings)
        bad = sum(finding.level == "problem" for finding in findings)
        if bad:
            raise fail(f"{bad} to mend" if bad > 1 else "one to mend", NO)


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries log and warn about is what the checks find, and say better."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        first, *more = finding.words.splitlines() or [""]
        console.print(f"{_MARKS[finding.level]} {finding.what:14} {plain(first)}")
        for line in more:
            console.print(f"{'':17} {plain(line)}")


def _findings(config: Path | None, account: str) -> list[Finding]:
    try:
        target = target_of(config)
    except UnreadableSettings:  # there is nothing to look at
        raise
    except ConfigProblem as problem:
        rest = "is looked at once the settings can be used"
        return [
            Finding("settings", "problem", str(problem)),
            Finding("all else", "warning", rest),
        ]
    return run(examine(target.settings, name=target.words, account=account))


async def examine(
    settings: Settings, *, name: str = "the node", account: str = DEFAULT_NAME
) -> list[Finding]:
    """All checks at once, in their order; `name` is that of the instance that they are about.

    `account`: the name of the one whose numbers are looked at.
    """
    checks: list[tuple[str, Check]] = [
        ("instance", partial(_instance, name)),
        ("settings", _settings),
        ("data folder", _data_folder),
        ("clock", _clock),
        ("database", _database),
        ("Kafka", _kafka),
        ("LiveKit", _livekit),
        ("public URL", _public_url),
        ("routes", _routes),
        ("webhooks", _webhooks),
        ("transfers", partial(_transfers, account)),
    ]
    return await asyncio.gather(*(_bounded(what, one, settings) for what, one in checks))


async def _bounded(what: str, one: Check, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await one(settings)
    except TimeoutError:
        return Finding(what, "problem", f"no answer within {_TIMEOUT:g} s: is it overloaded?")
    except SwitchboardError as error:
        return Finding(what, "problem", str(error))
    except OSError as error:  # the data folder's; those of the network are met where they arise
        return Finding(what, "problem", f"{error.filename or what}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - what nobody foresaw must not hide the other findings
        return Finding(what, "problem", _unforeseen(error))


def _unforeseen(error: BaseException) -> str:
    """Its kind and its place, but not its words: they may hold a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f", {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return (
        f"the check itself failed ({type(error).__name__}{place}): look at the settings that it is "
        "about; if they are right, report it with this line"
    )


async def _instance(name: str, settings: Settings) -> Finding:
    running = await _ready(settings)
    if running is None:
        words = f"{name}; nothing answers at {local_url(settings)}"
        return Finding("instance", "ok", words)
    return Finding("instance", "ok", name if running.ready else f"{name}; it is not ready yet")


async def _ready(settings: Settings) -> _Ready | None:
    """What the running instance says of itself; None where none answers, or another program."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{local_url(settings)}/readyz") as answer:
                return msgspec.json.decode(await answer.read(), type=_Ready)
        except (aiohttp.ClientError, ValueError):
            return None


async def _settings(settings: Settings) -> Finding:
    try:
        check(settings)
    except ConfigProblem as problem:
        return Finding("settings", "problem", str(problem))
    if "ingress" in settings.roles:  # with any credentials: whether answers can be made is asked
        sources(settings, sip_credentials(bytes(32)), SystemClock())
    return Finding("settings", "ok", f"roles {', '.join(settings.roles)}")


async def _data_folder(settings: Settings) -> Finding:
    return await asyncio.to_thread(_look_at_data_folder, settings)  # a dead mount answers never


def _look_at_data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir
    if not folder.is_dir():
        if not may_be_made(folder):
            words = f"{folder} can't be made: choose another data_dir, or make it for this user"
            return Finding("data folder", "problem", words)
        words = f"{folder} is not there yet: `switchboard up` makes it, and a secret key in it"
        return Finding("data folder", "ok", words)
    if find_key(settings.secret_key.get_secret_value(), folder) is None:
        will_be = f"; {KEY_FILE} is made at the first start"
    else:
        will_be = ""
    free = shutil.disk_usage(folder).free
    if free < settings.journal.min_free_bytes:
        words = f"{folder}: disk full, events are refused; free some space"
        return Finding("data folder", "problem", words)
    open_to_others = sorted(path.name for path in folder.iterdir() if _is_open(path))
    if open_to_others and _is_open(folder):
        names = ", ".join(open_to_others[:5])
        words = f"{folder}: others may read {names}: chmod go= them"
        return Finding("data folder", "warning", words)
    return Finding("data folder", "ok", f"{folder}, {free / 2**30:.1f} GiB free{will_be}")


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except FileNotFoundError:  # a running instance has just replaced it
        return False


async def _clock(settings: Settings) -> Finding:
    """Against the Date header of LiveKit, whose tokens are what a wrong clock breaks first."""
    if not settings.livekit.url:
        return Finding("clock", "warning", "nothing to compare with: livekit.url is not set")
    async with aiohttp.ClientSession() as session:
        try:
            url = _http(settings.livekit.url)
            async with session.get(url, allow_redirects=False) as answer:
                theirs = parsedate_to_datetime(answer.headers["Date"])
        except aiohttp.ClientError as error:
            words = f"nothing to compare with: LiveKit can't be reached: {reason(error)}"
            return Finding("clock", "warning", words)
        except (KeyError, ValueError):
            return Finding("clock", "warning", "LiveKit did not say what time it is")
    theirs = theirs if theirs.tzinfo is not None else theirs.replace(tzinfo=UTC)
    skew = time.time() - theirs.timestamp()
    if abs(skew) < _SKEW:
        return Finding("clock", "ok", f"{skew:+.0f} s against LiveKit")
    words = (
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} LiveKit's: tokens and "
        "signatures are refused; set the clock by NTP (timedatectl set-ntp true)"
    )
    return Finding("clock", "problem", words)


async def _database(settings: Settings) -> Finding:
    await migrate.check(settings)
    kind = urlsplit(settings.database_url).scheme.partition("+")[0]
    return Finding("database", "ok", f"{kind}, schema up to date")


async def _kafka(settings: Settings) -> Finding:
    if not settings.has_kafka:
        return Finding("Kafka", "ok", "not used: the journal alone (kafka.bootstrap_servers)")
    return Finding("Kafka", "ok", await probe_kafka(settings.kafka))


async def _livekit(settings: Settings) -> Finding:
    livekit = settings.livekit
    missing = [key for key in ("url", "api_key", "api_secret") if not getattr(livekit, key)]
    if missing:
        return Finding("LiveKit", "problem", f"not set: livekit.{', livekit.'.join(missing)}")
    key = find_key(settings.secret_key.get_secret_value(), settings.data_dir)
    try:
        async with open_livekit(livekit) as client:
            # Without a key the trunk can't be ours: what is asked is whether LiveKit answers.
            wrong = await setup.inspect(client, sip_credentials(key or bytes(32)))
    except EffectError as error:
        return Finding("LiveKit", "problem", f"{livekit.url}: {error}")
    if key is None:
        words = f"{livekit.url} answers; the SIP trunk is set up at the first start"
        return Finding("LiveKit", "warning", words)
    if wrong:
        return Finding("LiveKit", "warning", "; ".join(wrong))
    return Finding("LiveKit", "ok", f"{livekit.url}, SIP trunk and rule in place")


async def _public_url(settings: Settings) -> Finding:
    if not settings.public_url:
        return Finding("public URL", "problem", "public_url is not set")
    parts = urlsplit(settings.public_url)  # a proxy's password may stand in it
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{settings.public_url}/healthz") as answer:
                if answer.status == 200 and await answer.content.read(64) == b"ok":
                    return Finding("public URL", "ok", f"{shown} leads here")
                words = f"{shown}/healthz answered {answer.status}, not by Switchboard"
        except aiohttp.ClientError as error:
            words = f"{shown} can't be reached: {reason(error)}"
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
    running = await _ready(settings)
    if running is None:
        return Finding("webhooks", "ok", "no instance runs here that could say more")
    found = [f"{name}: {hint}" for name, hint in sorted(running.refused.items())]
    if closed := running.connections.unreadable:
        found.append(
            f"{closed} connection{'s' if closed > 1 else ''} of accounts can't be opened, so their "
            "webhooks are refused: put the secret_key that sealed them into previous_secret_keys"
        )
    if found:
        return Finding("webhooks", "problem", "\n".join(found))
    return Finding("webhooks", "ok", "none refused that a setting would let in")


async def _transfers(account: str, settings: Settings) -> Finding:
    """Whether agents can send callers elsewhere: see `TwilioSource.reply`, of /refer."""
    if not settings.providers.twilio.account_sid:
        return Finding("transfers", "ok", "no account of Twilio's is set")
    try:
        await migrate.check(settings)
        async with open_database(settings) as database:
            refused, more = await _without_fallback(database, await account_of(database, account))
    except StorageError:  # the check of the database says it
        return Finding("transfers", "ok", "looked at once the database can be used")
    if not refused:
        return Finding("transfers", "ok", "agents may transfer to the numbers of the mapping")
    words = (
        "agents may transfer to the numbers of the mapping, but not callers of "
        f"{', '.join(refused)}{' and more' if more else ''}:\nwithout a fallback, Twilio refuses "
        "their SIP REFER; give them one, or have the agent dial whom it wants into the room"
    )
    return Finding("transfers", "ok", words)  # it may be meant so


async def _without_fallback(database: Database, account_id: str) -> tuple[list[str], bool]:
    """Some of its numbers at Twilio that have an agent and no fallback; whether there are more."""
    found: list[str] = []
    after = ""
    while page := await mapping.list_numbers(database, account_id, after=after):
        found += [
            each.number
            for each in page
            if each.provider == "twilio" and each.agent and not each.fallback
        ]
        if len(found) > _SHOWN:
            return found[:_SHOWN], True
        after = page[-1].number
    return found, False


def _http(url: str) -> str:
    return url.replace("ws", "http", 1) if url.startswith("ws") else url
