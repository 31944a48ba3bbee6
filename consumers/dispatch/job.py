"""What an agent's job is told of its call: `ctx.job.metadata`, as JSON. Pure.

docs/OPERATIONS.md ("Agents") says to those who write agents what is in it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from router.events.model import Event, EventData
from router.events.phone import country_of
from router.routing.spec import FACTS_LIMIT

if TYPE_CHECKING:  # pure: it brings SQLAlchemy with it
    from router.storage.claims import Claim

_LANGUAGE_HEADERS: Final = ("x-language", "accept-language", "content-language")
_LANGUAGE: Final = re.compile(
    r"(?P<tag>[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,4})"
    r"(?:\s*;\s*q=(?P<weight>[01](?:\.[0-9]{1,3})?))?"
)


def job_metadata(claim: "Claim", initiated: Event, attempt: int) -> dict[str, Any]:
    """What the agent finds in `ctx.job.metadata`, as JSON.

    `metadata` is the agent's own from the mapping; the rest is about this call, and at most
    `FACTS_LIMIT` bytes: of what the carrier said, what is absent or does not fit is left out.
    `dispatch` tells jobs of one call apart: the higher (`fence`, `attempt`) is the one that counts.
    """
    data = initiated.data
    decision = data.decision
    call: dict[str, Any] = {
        "call_id": claim.call_id,
        "provider": initiated.source,
        "provider_call_id": data.provider_call_id,
        "from": data.from_number,
        "to": data.to_number,
        "direction": data.direction or "inbound",
    }
    job: dict[str, Any] = {
        "metadata": {},
        "call": call,
        "agent": {"name": claim.agent, "livekit_agent_name": claim.livekit_agent_name},
        "dispatch": {"attempt": attempt, "fence": claim.fence},
    }
    spare = FACTS_LIMIT - len(msgspec.json.encode(job))
    call |= _fitting({name: value for name, value in _carriers_facts(data) if value}, spare)
    if decision is not None:
        job["metadata"] = dict(decision.metadata)
    return job


def _carriers_facts(data: EventData) -> Iterator[tuple[str, Any]]:
    """What else the carrier said of the call, the short facts first; "" and {} where it did not."""
    yield "channel", data.channel
    yield "country", country_of(data.from_number)
    yield "attestation", data.attestation
    yield "language", _language(data.sip_headers)
    yield "forwarded_from", data.forwarded_from
    yield "caller_name", data.caller_name
    yield "sip_headers", data.sip_headers


def _fitting(facts: Mapping[str, Any], spare: int) -> dict[str, Any]:
    """Those of `facts`, in their order, that fit into `spare` bytes of JSON.

    A text is there whole or not at all: half a token or half a name would be taken for one. Of
    objects, as many members as fit.
    """
    found: dict[str, Any] = {}
    for name, value in facts.items():
        own = spare - len(msgspec.json.encode({name: {}}))
        if isinstance(value, Mapping):
            value = _fitting(value, own)
        size = len(msgspec.json.encode({name: value}))
        if value and size <= spare:
            found[name] = value
            spare -= size
    return found


def _language(headers: Mapping[str, str]) -> str:
    """The caller's language (BCP 47: `de`, `pt-BR`) where a header names one, else "".

    Of several in Accept-Language, the one with the highest weight (RFC 3261 §20.3).
    """
    named = {name.lower(): value for name, value in headers.items()}
    for name in _LANGUAGE_HEADERS:
        offers = [
            (float(found["weight"] or 1), found["tag"])
            for part in named.get(name, "").split(",")
            if (found := _LANGUAGE.fullmatch(part.strip())) is not None
        ]
        if offers:
            return max(offers, key=lambda offer: offer[0])[1]
    return ""
