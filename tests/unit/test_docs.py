"""What the pages name is there: files, code, tests, commands, settings, metrics, links.

In backquotes a page may name
- a path, or `path:Name` for a class, function, constant or test in it;
- a dotted word, which must be a setting, a fact of /readyz, a module, or a text that stands in the
  code (event types, topics, log lines, files of the data folder);
- `/a/path`, which the application must serve; `METHOD /a/path`, an operation of the control API;
- a metric, with labels that it has.
Code blocks and spans that begin with `switchboard` or `make` must be commands with such options.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from config import Settings, load
from config.settings import TwilioSettings
from router.api.app import dialects
from router.cli import context
from router.cli.main import app
from router.clock import SystemClock
from router.eventlog.topics import INTERNAL, TOPICS
from router.observability.metrics import REGISTRY
from router.providers import providers
from router.runtime import sources
from router.secrets import SipCredentials

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    "README.md",
    "CHANGELOG.md",
    "docs/API.md",
    "docs/ARCHITECTURE.md",
    "docs/THREAT_MODEL.md",
    "docs/OPERATIONS.md",
    "docs/ADDING_A_PROVIDER.md",
    "docs/EVENTS.md",
)
_PACKAGES: Final = ("router", "consumers", "config", "tests", "docs", "bench")
_PLACEHOLDERS: Final = ("NAME", "KIND", "…")
_FENCE: Final = re.compile(r"^( *)```\w*\n(.*?)^\1```", re.M | re.S)
# What a reader types before the command itself.
_PREFIX: Final = re.compile(r"^(\$ )?(docker compose exec switchboard )?(\.venv/bin/)?")
_SERVED: Final = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/webhooks/",
    "/asyncapi.json",
    "/schemas/event.json",
}
_READY_FACTS: Final = {
    "api": {"state", "in_flight"},
    "kafka": {"healthy", "behind_events", "behind_seconds", "trouble"},
    "routes": {
        "numbers",
        "version",
        "epoch",
        "fingerprint",
        "current",
        "age_seconds",
        "restored",
    },
}
# Of other programs, or of the call's and the agent's own data.
_FOREIGN: Final = {"livekit.yaml", "mapping.yaml", "hmac.compare_digest", "config.phone_number"}


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text(page: str) -> str:
    return (ROOT / page).read_text()


def prose(page: str) -> str:
    return _FENCE.sub("", text(page))


def spans(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: str, program: str) -> Iterator[list[str]]:
    """What a page tells to type: the words after `program`, up to a comment or a pipe."""
    lines = [line.strip() for _, block in _FENCE.findall(text(page)) for line in block.splitlines()]
    for line in lines + spans(page):
        words = shlex.split(_PREFIX.sub("", line), comments=True) if program in line else []
        if words and words[0] == program and len(words) > 1:
            yield words[1:]


@cache
def source_texts() -> frozenset[str]:
    """Every text constant of the product code, and what modules define."""
    found: set[str] = set()
    for package in ("router", "consumers", "config"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            found |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return frozenset(found)


@cache
def setting_names() -> frozenset[str]:
    return frozenset(_fields(Settings))


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        yield prefix + name
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{prefix}{name}.")


def _definitions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    targets = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign)]
    for node in targets:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                found.add(target.id)
    return found


def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(str(path.relative_to(ROOT))), re.M)
            assert anchor in {_anchor(heading) for heading in headings}, link


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s", "-", kept.strip())


def test_paths_and_names_in_the_code_exist(page: str) -> None:
    for span in spans(page):
        path, _, name = span.partition(":")
        is_path = path.startswith(tuple(f"{package}/" for package in _PACKAGES))
        if not is_path or any(part in path for part in _PLACEHOLDERS):
            continue
        assert (ROOT / path).exists(), span
        if name:
            assert name in _definitions(ROOT / path), span


def test_private_names_beside_a_path_are_in_it(page: str) -> None:
    # "`_NAME` in `path`"
    for name, path in re.findall(r"`(_[A-Z_]+)`\s+in\s+`([\w/]+\.py)`", prose(page)):
        assert name in _definitions(ROOT / path), (name, path)


def test_dotted_words_are_known(page: str) -> None:
    modules = {".".join(path.parts) for path in _modules()}
    for span in spans(page):
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) is None or (ROOT / span).exists():
            continue
        first, _, rest = span.partition(".")
        known = (
            span in setting_names()
            or span in source_texts()
            or span in modules
            or rest in _READY_FACTS.get(first, ())
            or span in {topic.name for topic in (*TOPICS, *INTERNAL)}
            or span in _FOREIGN
            or _beside(span)
        )
        assert known, f"{page}: `{span}` is no setting, event, log line, topic, file or module"


def _modules() -> Iterator[Path]:
    for package in ("router", "consumers", "config"):
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or path.suffix == ".py":
                yield path.relative_to(ROOT).with_suffix("")


def _beside(span: str) -> bool:
    """Whether it is a file of the folder that the page speaks of: `reply.py` of a provider."""
    places = (ROOT / "router/providers/twilio", *(ROOT / "consumers").iterdir())
    return span.endswith(".py") and any((place / span).exists() for place in places)


def test_settings_in_the_environment_exist(page: str) -> None:
    known = {f"SWITCHBOARD_{name.upper().replace('.', '__')}" for name in setting_names()}
    known.add("SWITCHBOARD_CONFIG")
    for name in re.findall(r"SWITCHBOARD_\w+", text(page)):
        assert name in known, name


def test_metrics_exist_with_these_labels(page: str) -> None:
    labels: dict[str, set[str]] = {}
    for collector in list(REGISTRY._names_to_collectors.values()):
        for name in REGISTRY._collector_to_names[collector]:
            labels[name] = set(getattr(collector, "_labelnames", ()))
    for name, given in re.findall(r"\b(switchboard_[a-z_]+)(\{[^}]*\})?", text(page)):
        assert name in labels, name
        assert set(re.findall(r"(\w+)=", given)) <= labels[name], (name, given)


def test_paths_are_served(page: str) -> None:
    served = set(_SERVED)
    for source in sources(load(), SipCredentials("user", "password"), SystemClock(), providers()):
        served |= {f"/webhooks/{source.name}{endpoint.path}" for endpoint in source.endpoints}
    for span in spans(page):
        found = re.search(r"(?<!\w)(/(?:webhooks|healthz|readyz|metrics)[\w/…]*)", span)
        if found is None or any(part in span for part in ("NAME", "…")):
            continue
        assert found[1] in served, span


def test_operations_of_the_api_exist(page: str) -> None:
    operations = [each for dialect in dialects() for each in dialect.operations]
    served = {each.path for each in operations} | {dialect.base for dialect in dialects()}
    methods = {f"{each.method} {each.path}" for each in operations}
    for span in spans(page):
        found = re.fullmatch(r"(?:([A-Z]+) )?(/(?:api|v1)(?:/[\w{}/-]+)?)", span)
        if found is None:
            continue
        assert span in methods if found[1] else found[2] in served, f"{page}: {span}"


def test_commands_exist_with_these_options(page: str) -> None:
    top = typer.main.get_command(app)
    for words in commands(page, "switchboard"):
        command, rest = top, words
        while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"switchboard {' '.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        options = {name for parameter in command.params for name in parameter.opts}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"switchboard {' '.join(words)}"


def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    for words in commands(page, "make"):
        assert words[0] in targets, words


def test_exit_codes_are_the_programs() -> None:
    codes = {0, context.NO, context.WRONG, context.UNREACHABLE, context.DISK_FAILED}
    table = text("docs/OPERATIONS.md").partition("| exit code |")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == codes | {130}
    for page in PAGES:
        assert {int(code) for code in re.findall(r"exit code (\d+)", text(page))} <= codes


def test_every_metric_is_told() -> None:
    metrics = list(REGISTRY.collect())
    assert metrics
    for metric in metrics:
        assert metric.name in text("docs/OPERATIONS.md"), metric.name


def test_what_a_start_needs_is_told() -> None:
    missing = re.findall(
        r"`([\w.]+)`", text("docs/OPERATIONS.md").partition("**Settings.**")[2][:400]
    )
    assert set(missing) - {"data_dir"} <= setting_names()
    assert {f"providers.twilio.{name}" for name in ("account_sid", "auth_tokens")} <= set(missing)
    assert "account_sid" in TwilioSettings.model_fields


def test_the_checks_bite() -> None:
    """A page that names nothing would pass everything."""
    everything = [span for page in PAGES for span in spans(page)]
    assert (
        sum(":" in span and span.startswith(("router/", "consumers/")) for span in everything) > 40
    )
    assert sum(span.startswith("tests/") for span in everything) > 25
    assert sum(span in setting_names() and "." in span for span in everything) > 40
    assert len([words for page in PAGES for words in commands(page, "switchboard")]) > 20
    assert len(re.findall(r"\bswitchboard_[a-z_]+", text("docs/OPERATIONS.md"))) > 15
