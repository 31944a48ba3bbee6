"""Answers checked against what the dialects' own documents say of them (tests/api/schemas)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from tests.support.api import Reply

_SCHEMAS = Path(__file__).parents[1] / "api" / "schemas"


@cache
def _validator(document: str, name: str) -> Draft202012Validator:
    found: dict[str, Any] = json.loads((_SCHEMAS / f"{document}.json").read_text())
    assert name in found["components"]["schemas"], f"{document}.json has no {name}"
    whole = {**found, "$ref": f"#/components/schemas/{name}"}
    return Draft202012Validator(whole, format_checker=FormatChecker())


def check(document: str, reply: Reply, status: int, name: str) -> Any:
    """The JSON of an answer that has this status, and is a `name` of the document."""
    assert reply.status == status, f"{reply.status}: {reply.text}"
    _validator(document, name).validate(reply.json)
    return reply.json
