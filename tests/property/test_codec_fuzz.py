"""Whatever is on the log, of whatever writer: it is read, or refused as unreadable."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadPayload
from router.events import cloudevents, codec
from tests.providers.mutations import NASTY, TEXT

_TIME = "2026-05-28T20:26:40Z"
_MODES = ("", "application/cloudevents+json", "application/cloudevents-batch+json")
_HEADERS = st.fixed_dictionaries(
    {
        "ce_id": TEXT,
        "ce_type": TEXT | st.just("call.initiated"),
        "ce_source": TEXT,
        "ce_time": TEXT | st.sampled_from([_TIME, _TIME[:-1], "9999-12-31T23:59:59-23:59"]),
    },
    optional={
        "ce_dataschema": TEXT | st.sampled_from(["switchboard/event/1", codec.SCHEMA]),
        "content-type": TEXT | st.sampled_from(_MODES),
    },
)
_VALUE = st.binary(max_size=200) | st.sampled_from([*NASTY, b'{"raw":%b}' % NASTY[2]])


@given(headers=_HEADERS, value=_VALUE | st.none())
def test_a_record_is_read_or_refused(headers: dict[str, str], value: bytes | None) -> None:
    with suppress(BadPayload):
        codec.decode("key", headers, value)


@given(
    headers=st.dictionaries(
        TEXT | st.sampled_from(["content-type", "ce-id", "ce-type", "CE-ID", "ce-time"]), TEXT
    ),
    body=_VALUE,
    mode=st.sampled_from(
        ["", "application/cloudevents+json", "application/cloudevents-batch+json"]
    ),
)
def test_a_cloudevent_is_read_or_refused(headers: dict[str, str], body: bytes, mode: str) -> None:
    with suppress(BadPayload):
        cloudevents.from_http({**headers, "Content-Type": mode}, body)
