"""The reference page: one HTML document made from the OpenAPI document, readable without a network.

No script, no font, no picture: nothing is loaded, and the page's Content-Security-Policy says so.
"""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
frame-ancestors 'none'"

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --code: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: 0 } h2 { border-bottom: 1px solid var(--line); margin-top: 3rem }
h3 { margin: 2.5rem 0 .3rem } h4 { margin: 1rem 0 .2rem }
code, pre { font: .9em ui-monospace, monospace; background: var(--code); border-radius: 3px }
code { padding: 0 .2em; overflow-wrap: anywhere } pre { padding: .6rem; overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
  border-top: 1px solid var(--line) }
th { font-weight: 600; color: var(--dim); border: 0 }
.method { font-weight: 700 } .dim { color: var(--dim) } nav li { list-style: none }
nav ul { padding-left: 1rem } a { color: inherit }
"""

_CONSTRAINTS: Final = {
    "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above",
    "exclusiveMaximum": "below", "minLength": "characters at least",
    "maxLength": "characters at most", "minItems": "entries at least",
    "maxItems": "entries at most", "pattern": "pattern", "format": "format",
    "default": "default", "multipleOf": "multiple of",
}  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document (`router.api.openapi`)."""
    info = document["info"]
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} API</h1>{_prose(info['description'])}",
        _COMMON,
        _contents(by_tag),
    ]
    for tag, operations in by_tag.items():
        parts.append(f'<h2 id="{_anchor("tag", tag)}">{escape(tag)}</h2>')
        parts += [_operation(*each, document) for each in operations]
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [
        _schema_section(name, schema) for name, schema in document["components"]["schemas"].items()
    ]
    parts.append("</body></html>\n")
    return "".join(parts)


_COMMON: Final = """<p>Every request needs a token: <code>Authorization: Bearer sb_…</code>
(<code>switchboard tokens create</code>). Bodies are JSON. Each answer has an
<code>X-Request-Id</code>, which the log has too, and what is left of the token's limit in
<code>RateLimit-Remaining</code>; a 429 or 503 says in <code>Retry-After</code> when to come again.
The machine-readable document: <a href="/openapi.json">/openapi.json</a>.</p>"""


def _contents(by_tag: Mapping[str, Any]) -> str:
    entries = []
    for tag, operations in by_tag.items():
        links = "".join(
            f'<li><a href="#{_anchor("op", each["operationId"])}">{escape(method)} '
            f"<code>{escape(path)}</code></a></li>"
            for method, path, each in operations
        )
        entries.append(
            f'<li><a href="#{_anchor("tag", tag)}">{escape(tag)}</a><ul>{links}</ul></li>'
        )
    return (
        f'<nav><h2>Contents</h2><ul>{"".join(entries)}<li><a href="#schemas">Schemas</a></li></ul>'
        "</nav>"
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    scopes = [each for one in operation.get("security", ()) for each in one["bearer"]]
    needs = f"a token with the scope <code>{escape(scopes[0])}</code>" if scopes else "any token"
    parts = [
        f'<h3 id="{_anchor("op", operation["operationId"])}">{escape(operation["summary"])}</h3>'
        f'<pre><span class="method">{escape(method)}</span> {escape(path)}</pre>',
        _prose(operation.get("description", "")),
        f'<p class="dim">Needs {needs}.</p>',
    ]
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"<code>{escape(each['name'])}</code>{_required(each['required'])}",
                escape(each["in"]),
                _type(each["schema"]),
                _told(each.get("description", ""), each["schema"]),
            )
            for each in parameters
        ]
        parts.append(f"<h4>Parameters</h4>{_table(('name', 'in', 'type', ''), rows)}")
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        optional = "" if body["required"] else ' <span class="dim">(may be left out)</span>'
        parts.append(f"<h4>Body{optional}</h4>{_body(schema, document)}")
    parts.append(f"<h4>Answers</h4>{_table(('status', 'body', ''), _answers(operation))}")
    return "".join(parts)


def _answers(operation: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        bodies = ", ".join(
            _type(each["schema"]) if "schema" in each else escape(kind)
            for kind, each in content.items()
        )
        yield escape(status), bodies or "none", escape(response["description"])


def _body(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    found = document["components"]["schemas"].get(name, schema)
    return f"<p>{_type(schema)}</p>{_properties(found)}"


def _schema_section(name: str, schema: Mapping[str, Any]) -> str:
    told = _prose(schema.get("description", ""))
    rest = _properties(schema) or f"<p>{_type(schema)} {_told('', schema)}</p>"
    return f'<h3 id="{_anchor("schema", name)}">{escape(name)}</h3>{told}{rest}'


def _properties(schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(name)}</code>{_required(name in needed)}",
            _type(each),
            _told(each.get("description", ""), each),
        )
        for name, each in schema.get("properties", {}).items()
    ]
    return _table(("field", "type", ""), rows) if rows else ""


def _type(schema: Mapping[str, Any] | bool) -> str:
    """The type in words, with links to named schemas; HTML."""
    if isinstance(schema, bool) or not schema:
        return "anything"
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f'<a href="#{_anchor("schema", name)}">{escape(name)}</a>'
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            word = " and " if choice == "allOf" else " or "
            return word.join(_type(each) for each in schema[choice])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _told(description: str, schema: Mapping[str, Any] | bool) -> str:
    limits = []
    if not isinstance(schema, bool):
        for each in (schema, *schema.get("anyOf", ())):
            for name, word in _CONSTRAINTS.items():
                if name in each:
                    value = each[name] if isinstance(each[name], str) else json.dumps(each[name])
                    limits.append(f"{word} <code>{escape(value)}</code>")
    small = f' <span class="dim">{", ".join(limits)}</span>' if limits else ""
    return _inline(description) + small


def _required(needed: bool) -> str:
    return ' <span class="dim">required</span>' if needed else ""


def _table(head: tuple[str, ...], rows: Any) -> str:
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _prose(text: str) -> str:
    """Paragraphs, with `code` and **bold** as our descriptions have them."""
    return "".join(f"<p>{_inline(each)}</p>" for each in text.split("\n\n") if each.strip())


def _inline(text: str) -> str:
    found = escape(text)
    for mark, tag in (("**", "strong"), ("`", "code")):
        pieces = found.split(mark)
        if len(pieces) % 2:  # every mark has its other half
            found = "".join(
                f"<{tag}>{piece}</{tag}>" if index % 2 else piece
                for index, piece in enumerate(pieces)
            )
    return found


def _anchor(kind: str, name: str) -> str:
    return escape(f"{kind}-{''.join(each if each.isalnum() else '-' for each in name)}")
