"""JSON Schemas of the events' data, generated from `router.events.model`.

`document()` is what `ce_dataschema` names. Beside the data that all events share it has a schema
for each type, with what an event of that type always says and an example.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec

from router.events.codec import SCHEMA
from router.events.examples import EXAMPLES
from router.events.model import EventData
from router.events.types import EventType

_MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "EventData": {
        "call_id": "Switchboard's id of the call, a UUID; empty in events that are about none",
        "provider_call_id": "the provider's id of the call: CallSid, call_control_id, …",
        "provider_account": "the provider's own id of the account: an AccountSid",
        "account_id": "id of the account that the call or number is of, a UUID; of a call, absent "
        "in events that know it by its call alone: its `call.initiated` says it",
        "connection_id": "the account's connection at the provider; absent: the operator's own",
        "direction": "as seen from the provider",
        "from_number": "E.164 where the carrier names a number, else as it was sent: `anonymous`",
        "to_number": "E.164 where the carrier names a number, else as it was sent: a SIP URI",
        "channel": "how the caller came: over the telephone network, SIP, WhatsApp, or an app",
        "caller_name": "as the carrier looked it up; the caller may have chosen it",
        "forwarded_from": "the number that was called first, where the call was forwarded",
        "attestation": "STIR/SHAKEN level of the caller's number, as the carrier verified it",
        "sip_headers": "custom headers of the INVITE; a caller chooses them freely",
        "control_id": "what commands name the call by, at a carrier that takes commands",
        "leg_id": "the provider's id of a child leg, of a LiveKit participant or of a room",
        "room": "the LiveKit room, where it is not named by the call_id",
        "stage": "what the carrier asked: where the call goes (route), or what comes after a dial",
        "media": "who brings the caller's audio into the room: a SIP leg, or the provider itself",
        "agent": "the agent's name at LiveKit",
        "agent_id": "Switchboard's id of the agent, a UUID",
        "status": "the provider's own word for the state",
        "disposition": "how a call or leg ended",
        "answered_by": "who took the call, as the provider heard it",
        "sip_status": "SIP response code, 0 where none is known",
        "duration": "seconds, as the provider measured",
        "text": "what was said",
        "speaker": "who said it, in the provider's word",
        "digits": "keys that were pressed",
        "recording_id": "the provider's id of a recording",
        "recording_url": "where the recording can be fetched; the provider may ask who you are",
        "number": "E.164, of events about a number; of a transfer, where it is to go",
        "order_id": "the order, port or bundle that the event is about",
        "error_code": "the provider's",
        "reason": "why, for people",
        "decision": "where the call goes and why; only where the carrier asked",
        "timing": "step → microseconds since the webhook was read",
        "raw": "the provider's payload, without secrets",
    },
    "Decision": {
        "action": "to an agent, to the fallback number, or not put through",
        "reason": "why, for people",
        "table_version": "version of the route table that decided",
        "agent": "Switchboard's name of the agent",
        "agent_id": "Switchboard's id of the agent, a UUID",
        "livekit_agent_name": "the agent's name at LiveKit",
        "metadata": "the agent's own, given to its job",
        "fallback": "E.164 number for when no agent comes",
    },
}

# What every event of a type, or of all types of a noun, says; of all others it is the call. Taking
# a name away breaks readers.
_CALL: Final = ("call_id",)
_ALWAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "call.forwarded": ("call_id", "decision"),
    "number.mapped": ("number",),
    "number.unmapped": ("number",),
    "action": (),  # an action of Vocode's may come without its conversation
    "number": (),
    "order": (),
    "port": (),
    "portout": (),
    "bundle": (),
    "conference": (),
    "provider": (),
}


def schemas(ref_template: str) -> dict[str, Any]:
    """`EventData`, `Decision` and one schema per event type, by name.

    `ref_template` holds `{name}` and is how they refer to each other.
    """
    _, found = msgspec.json.schema_components((EventData,), ref_template=ref_template)
    for name, meanings in _MEANINGS.items():
        for field, meaning in meanings.items():
            found[name]["properties"][field]["description"] = meaning
    for kind in EventType:
        noun = kind.value.partition(".")[0]
        always = _ALWAYS.get(kind.value, _ALWAYS.get(noun, _CALL))
        found[kind.value] = {
            "title": kind.value,
            "description": kind.meaning,
            "allOf": [{"$ref": ref_template.format(name="EventData")}],
            "required": list(always),
            "examples": [msgspec.to_builtins(EXAMPLES[kind].data)],
        }
    return found


@cache
def document() -> bytes:
    """The JSON Schema (draft 2020-12) of the current version."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "Data of Switchboard's events",
        "description": (
            "The value of a record of `telephony.calls` and `telephony.numbers`. Which type it has "
            "says the header `ce_type`; each type has its own schema in `$defs`. A field that is "
            "absent has its default."
        ),
        "$ref": "#/$defs/EventData",
        "$defs": schemas("#/$defs/{name}"),
    }
    return msgspec.json.encode(schema)
