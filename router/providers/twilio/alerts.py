"""Failures that Twilio logged, perhaps of ours, as events: the Debugger's webhook.

twilio.com/docs/usage/troubleshooting/debugging-event-webhooks. Event Streams tells of the same ones
(`com.twilio.error-logs.error.logged`); they have one Sid and so become one event.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from router.events.ids import call_id, event_id
from router.events.model import Event, EventData
from router.events.types import EventType
from router.provider import happened_at
from router.providers.twilio.events import PROVIDER
from router.providers.twilio.fields import (
    CALL_SID,
    NUMBER,
    WORD,
    Fields,
    matching,
    moment,
    scrubbed,
    table,
)

SID: Final = re.compile(r"NO[0-9a-f]{32}")
_LEVELS: Final = frozenset({"error", "warning"})  # Event Streams also has what programs log as INFO


def logged(fields: Fields, account: str, received_at: int) -> Event:
    """The Debugger's webhook. A payload that is not JSON is not kept: it can't be cleaned."""
    raw = scrubbed(fields)
    return alert(
        sid=matching(fields, "Sid", SID),
        level=matching(fields, "Level", WORD),
        account=account,
        payload=table(raw.get("Payload")),
        time=happened_at(moment(fields.get("Timestamp")), received_at),
        raw=raw,
    )


def alert(
    *,
    sid: str,
    level: str,
    account: str,
    payload: Mapping[str, Any],
    time: int,
    raw: Mapping[str, Any],
) -> Event:
    """The event of an alert; `payload` is Twilio's (scrubbed), whose fields may be of any kind.

    Its key is the call's id where Twilio names a call, else its own Sid.
    """
    resource, parent = _calls(payload)
    call = call_id(PROVIDER, account, parent or resource) if resource else ""
    code = str(payload.get("error_code") or "")
    known = level.lower() in _LEVELS
    return Event(
        id=event_id(PROVIDER, account, "alert", sid),
        type=EventType.PROVIDER_ALERTED if known else EventType.PROVIDER_UNKNOWN,
        source=PROVIDER,
        time=time,
        key=call or sid,
        data=EventData(
            call_id=call,
            provider_call_id=parent or resource,
            leg_id=resource if parent else "",
            provider_account=account,
            status=level,
            error_code=code if NUMBER.fullmatch(code) else "",
            reason=_reason(payload),
            raw=raw,
        ),
    )


def _calls(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The CallSid that an alert is about and its parent's, each "" where there is none.

    The alert names the leg that failed; only the request that failed, if any, names its call.
    """
    resource = _call_sid(payload.get("resource_sid"))
    request = table(table(payload.get("webhook")).get("request"))
    parent = _call_sid(table(request.get("parameters")).get("ParentCallSid"))
    return resource, parent if resource else ""


def _call_sid(value: object) -> str:
    return value if isinstance(value, str) and CALL_SID.fullmatch(value) else ""


def _reason(payload: Mapping[str, Any]) -> str:
    """Twilio's message, which may come from anywhere: bounded and printable."""
    more = table(payload.get("more_info"))
    text = more.get("Msg") or more.get("msg")
    return "".join(filter(str.isprintable, text))[:300] if isinstance(text, str) else ""
