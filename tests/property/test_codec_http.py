"""CloudEvents over HTTP: what is written is read again, whatever comes is BadPayload at worst."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events.cloudevents import CloudEvent, from_http, from_json, to_http

_CHARACTERS = st.characters(exclude_categories=["Cs", "Cc", "Cn"])
words = st.text(_CHARACTERS, min_size=1, max_size=30) | st.lists(
    st.sampled_from([" ", '"', "%", "%41", "%C0%A0", "\\", "€", "😀"]), min_size=1, max_size=6
).map("".join)
extensions = st.from_regex(r"x[a-z0-9]{1,8}", fullmatch=True)
cloud_events = st.builds(
    lambda required, optional, more, data: CloudEvent(
        {"specversion": "1.0", **required, **optional, **more}, data
    ),
    st.fixed_dictionaries({"id": words, "source": words, "type": words}),
    st.fixed_dictionaries(
        {},
        optional={
            "subject": words,
            "time": st.just("2018-04-05T03:56:24Z"),
            "datacontenttype": st.sampled_from(["application/json", "text/plain;charset=utf-8"]),
        },
    ),
    st.dictionaries(extensions, st.text(_CHARACTERS, max_size=20), max_size=3),
    st.none() | st.binary(min_size=1, max_size=50),
)
VALID = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t"}
VALID_HEADERS = {f"ce-{name}": text for name, text in VALID.items()}


def spoiled(valid: dict[str, str], changes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Something valid with a few changes and without a few of its names."""
    return st.builds(
        lambda change, missing: {k: v for k, v in (valid | change).items() if k not in missing},
        changes,
        st.sets(st.sampled_from(sorted(valid)), max_size=1),
    )


anything = st.text(max_size=40)
headers = spoiled(
    VALID_HEADERS,
    st.dictionaries(
        st.sampled_from(["ce-id", "CE-ID", "ce-specversion", "ce-time", "ce-x", "ce-", "ce-X-y"]),
        anything | st.sampled_from(["1.0", "%C0%A0", '"a \\" b"', '"', "%"]),
        max_size=2,
    )
    | st.fixed_dictionaries(
        {
            "Content-Type": anything
            | st.sampled_from(
                [
                    "application/cloudevents+json",
                    "application/cloudevents-batch+json; charset=utf-8",
                    "application/cloudevents+xml",
                ]
            )
        }
    ),
)
members = spoiled(
    VALID,
    st.dictionaries(
        st.sampled_from([*VALID, "time", "data", "data_base64", "datacontenttype", "x", "X"]),
        st.none() | st.booleans() | st.integers() | st.floats() | anything | st.just("YQ=="),
        max_size=2,
    ),
)
bodies = st.binary(max_size=60) | (members | st.lists(members, max_size=3)).map(
    lambda value: msgspec.json.encode(_sayable(value))
)


def _sayable(value: object) -> object:
    """Without what JSON can't say: surrogates and integers of any length."""
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_sayable(inner) for inner in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return str(value) if isinstance(value, int) and abs(value) > 2**62 else value


@given(cloud_events)
def test_what_is_written_is_read_again(event: CloudEvent) -> None:
    sent, body = to_http(event)
    assert all(" " < character <= "~" for value in sent.values() for character in value)
    assert from_http(sent, body) == [event]


@given(headers, bodies)
def test_any_request_is_events_or_a_bad_payload(sent: dict[str, str], body: bytes) -> None:
    try:
        events = from_http(sent, body)
    except BadPayload:
        return
    for event in events:
        assert event.attributes["specversion"] == "1.0"
        assert all(event.attributes[name] for name in ("id", "source", "type"))


@given(bodies)
def test_any_text_is_an_event_or_a_bad_payload(text: bytes) -> None:
    try:
        event = from_json(text)
    except BadPayload:
        return
    assert event.attributes["id"]
