"""The OpenAPI documents are valid, complete and enough for a client; the page shows all of them."""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pydantic_core
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31
from typing_extensions import override

from router.api import docs, openapi
from router.api.app import dialects
from router.api.operation import Dialect
from tests.api.fuzz import fuzz
from tests.support.api import running_api

SEED = 20_260_115


def _documents() -> dict[str, Any]:
    whole = openapi.document(dialects(), server="")
    return {"whole": whole} | {
        each.name: openapi.document([each], server="") for each in dialects()
    }


@pytest.mark.parametrize("document", _documents().values(), ids=_documents())
def test_it_is_openapi_3_1(document: Any) -> None:
    errors = jsonschema.Draft202012Validator(OPENAPI_31).iter_errors(document)
    assert [error.message for error in errors] == []
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert document["openapi"].startswith("3.1.")


@pytest.mark.parametrize("document", _documents().values(), ids=_documents())
def test_every_reference_leads_somewhere(document: Any) -> None:
    found: set[str] = set()
    _references(document, found)
    assert found
    for reference in found:
        here = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in here, reference
            here = here[step]


def _references(value: Any, found: set[str]) -> None:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            found.add(reference)
        for each in value.values():
            _references(each, found)
    elif isinstance(value, list):
        for each in value:
            _references(each, found)


def test_every_operation_is_in_it_once(dialect: Dialect) -> None:
    document = openapi.document([dialect], server="")
    told = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(told) == {(each.method, each.path) for each in dialect.operations}
    assert len({each["operationId"] for each in told.values()}) == len(told)
    for operation in dialect.operations:
        found = told[operation.method, operation.path]
        assert operation.path.startswith(dialect.base + "/") or operation.path == dialect.base
        assert set(map(str, operation.answers)) <= set(found["responses"])
        assert ("401" in found["responses"]) is not operation.open
        assert (found.get("security") == []) is operation.open
        if operation.scope is not None:
            assert found["security"] == [{"bearer": [operation.scope]}]
        names = {each["name"] for each in found.get("parameters", ()) if each["in"] == "path"}
        assert names == set(re.findall(r"{(\w+)}", operation.path))
        keys = [each for each in found.get("parameters", ()) if each["name"] == "Idempotency-Key"]
        assert len(keys) == operation.creates
        assert ("requestBody" in found) == (operation.body is not None)


def test_dialects_share_no_names() -> None:
    paths = [(each.method, each.path) for one in dialects() for each in one.operations]
    assert len(paths) == len(set(paths))
    whole = openapi.document(dialects(), server="")
    if len(dialects()) > 1:
        own = {each.name for each in dialects()}
        assert {name.partition(".")[0] for name in whole["components"]["schemas"]} <= own


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @override
    def handle_data(self, data: str) -> None:
        self.text.append(data)


async def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        reply = await api.request("GET", "/docs")
        whole = (await api.request("GET", "/openapi.json")).json
        assert (await api.request("GET", "/openapi/native.json")).json["info"]["title"]
        assert (await api.request("GET", "/openapi/none.json")).status == 404
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    page = _Page()
    page.feed(reply.text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "form"}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert "url(" not in reply.text
    assert "@import" not in reply.text
    anchors = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {link for link in links if link and not link.startswith("#")} == {"/openapi.json"}
    assert {f"#{anchor}" for anchor in anchors} >= links - {"/openapi.json"}
    text = " ".join(page.text)
    for path, methods in whole["paths"].items():
        assert path in text
        for operation in methods.values():
            assert operation["summary"] in text
    for name in whole["components"]["schemas"]:
        assert name in text


def test_whatever_a_document_says_is_text_on_the_page() -> None:
    evil = "<script>alert(1)</script>\"'`**&"
    schema = {"type": "object", "description": evil, "properties": {evil: {"enum": [evil]}}}
    operation = {
        "operationId": evil,
        "summary": evil,
        "description": evil,
        "tags": [evil],
        "security": [{"bearer": [evil]}],
        "parameters": [
            {"name": evil, "in": "query", "required": True, "schema": {"pattern": evil}}
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {evil: {"description": evil, "content": {evil: {}}}},
    }
    page = docs.page(
        {
            "info": {"title": evil, "description": evil},
            "paths": {evil: {evil: operation}},
            "components": {"schemas": {evil: schema}},
        }
    )
    assert "<script" not in page.lower()
    parsed = _Page()
    parsed.feed(page)
    assert not [attrs for _, attrs in parsed.tags if set(attrs) - {"id", "href", "class", "lang",
        "charset", "name", "content"}]  # fmt: skip


@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """All checks over the whole document, a few examples of each operation; always the same.

    What `make api-fuzz` does besides, each keyword of each schema in turn, takes minutes.
    """
    outcome = await fuzz(tmp_path, seed=SEED, examples=4, phases="examples,fuzzing,stateful")
    print(outcome.text)
    assert outcome.passed, outcome.text


async def test_the_documents_are_made_once_however_many_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, and making one takes longer than answering a hundred calls."""
    made: list[str] = []
    document, dump = openapi.document, pydantic_core.to_json

    def counted(*args: Any, **more: Any) -> Any:
        made.append("document")
        return document(*args, **more)

    def dumped(value: Any, **more: Any) -> bytes:
        made.extend(["dump"] if "openapi" in value else [])
        return dump(value, **more)

    monkeypatch.setattr(openapi, "document", counted)
    monkeypatch.setattr(pydantic_core, "to_json", dumped)
    async with running_api(tmp_path) as api:
        for path, makes in (("/openapi.json", ["document", "dump"]), ("/docs", ["document"])):
            made.clear()
            replies = await asyncio.gather(*(api.request("GET", path) for _ in range(5)))
            assert {reply.status for reply in replies} == {200}
            assert len({reply.body for reply in replies}) == 1
            assert made == makes
