"""Twilio as a source of webhooks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from config.settings import TwilioSettings
from router.errors import BadPayload
from router.events.model import Event
from router.events.types import EventType
from router.provider import (
    NO_CONNECTIONS,
    ConnectionBook,
    Endpoint,
    Reply,
    Verified,
    WebhookRequest,
)
from router.providers.twilio import alerts, events, media, numbers, signature, streams
from router.providers.twilio.diagnose import diagnose
from router.providers.twilio.fields import Fields, matching, optional, read
from router.providers.twilio.keys import ACCOUNT_SID, Form, Key, Keyring, Signer
from router.providers.twilio.reply import CONTENT_TYPE, Answers
from router.routing.scope import Proof

_MAX_FIELDS: Final = 200
_OK: Final = Reply(200)
_NO_CONTENT: Final = Reply(204)
_DIAL: Final = "/webhooks/twilio/dial"
_TWIML: Final = frozenset({"voice", "dial", "fallback", "disaster", "refer"})

_BUILDERS: Final[Mapping[str, Callable[[Fields, str, int], Event]]] = {
    "voice": events.incoming_call,
    "fallback": events.incoming_call,
    "disaster": events.disaster_call,
    "refer": events.transfer_wanted,
    "status": events.call_status,
    "recording": media.recording_status,
    "amd": media.machine_detected,
    "transcription": media.transcription,
    "debugger": alerts.logged,
}
# Without these it is about something else: a conference, one of its members, its recording.
_TELLS_OF_A_CALL: Final[Mapping[str, Sequence[str]]] = {
    "status": ("CallSid", "CallStatus", "From", "To"),
    "recording": ("CallSid", "RecordingSid", "RecordingStatus"),
    "amd": ("CallSid", "AnsweredBy"),
    "transcription": ("CallSid", "TranscriptionEvent", "TranscriptionSid", "SequenceId"),
}


class Signed(NamedTuple):
    """What verifying has read of a request: its form, empty for JSON, and who signed it."""

    form: Form
    signer: Signer


class TwilioSource:
    """See `router.provider.WebhookSource`."""

    name = events.PROVIDER
    has_tenants = True
    endpoints = (
        Endpoint("voice", "/voice"),
        Endpoint("status", "/status"),
        Endpoint("dial", "/dial"),
        Endpoint("fallback", "/fallback", storeless=True),
        Endpoint("disaster", "/disaster"),
        Endpoint("refer", "/refer"),
        Endpoint("recording", "/recording"),
        Endpoint("amd", "/amd"),
        Endpoint("transcription", "/transcription"),
        # An alert repeats the request that failed and its answer (TwiML has up to 64 kB), escaped.
        Endpoint("debugger", "/debugger", max_body=256 * 1024),
        # A batch of events, some of which wrap a whole request; Twilio tells no limit. It is JSON,
        # which the URL's hash covers: nothing of it is read before the signature is right.
        Endpoint("events", "/events", max_body=512 * 1024),
        Endpoint("porting", "/porting", max_body=256 * 1024),  # all numbers of an order
        Endpoint("bundle", "/bundle"),
    )

    def __init__(
        self,
        settings: TwilioSettings,
        *,
        public_url: str,
        answers: Answers,
        connections: ConnectionBook = NO_CONNECTIONS,
    ) -> None:
        self._connections = connections
        self._keyring = Keyring(settings, connections)
        self._public_url = public_url
        self._bases = signature.public_bases(public_url)
        self._answers = answers

    def check_head(self, request: WebhookRequest) -> None:
        """See `WebhookSource.check_head`."""
        signature.offered(request.target, request.headers)

    def verify(self, request: WebhookRequest) -> Verified:
        """See `WebhookSource.verify`."""
        given = signature.offered(request.target, request.headers)
        form = signature.read_form(request.headers, request.body, max_fields=_MAX_FIELDS)
        keys = self._keyring.choose(request.headers, form, request.body, request.target)
        key = signature.verify(
            bases=self._bases,
            target=request.target,
            body=request.body,
            form=form,
            keys=keys,
            given=given,
        )
        return Verified(request, Signed(form, key.signer), self._proof(key, keys))

    def _proof(self, key: Key, keys: Sequence[Key]) -> Proof:
        """Whose key that is: two may have the same, the operator among them."""
        same = (each for each in keys if each.secret == key.secret and each.digest == key.digest)
        signers = key.connections.union(*(each.connections for each in same))
        return self._connections.proof(signers)

    def parse(self, verified: Verified) -> Sequence[Event]:
        """See `WebhookSource.parse`."""
        request, signed = verified.request, verified.content
        if request.kind == "events":
            return streams.parse(request, signed.signer)
        return [self._event(request, signed)]

    def _event(self, request: WebhookRequest, signed: Signed) -> Event:
        kind, signer = request.kind, signed.signer
        if kind == "porting":
            return numbers.porting(request, signer)
        fields = read(signed.form, kind)
        if kind == "bundle":  # it may come without an account
            account = signer.account_of(optional(fields, "AccountSid", ACCOUNT_SID))
            return numbers.bundle_status(fields, account, request.received_at)
        named = matching(fields, "AccountSid", ACCOUNT_SID)
        parent = fields.get("ParentAccountSid", "") if kind == "debugger" else ""
        account = signer.account_of(named, parent=parent)
        if kind == "dial":
            stage = _stage(request.target)
            return events.dial_ended(fields, account, request.received_at, stage)
        if kind == "fallback" and (stage := _failed_action(fields)):
            return events.action_failed(fields, account, request.received_at, stage)
        if any(name not in fields for name in _TELLS_OF_A_CALL.get(kind, ())):
            return events.unknown(fields, account, request.received_at, kind)
        build = _BUILDERS.get(kind)
        if build is None:
            raise BadPayload(f"there is no webhook {kind}")
        return build(fields, account, request.received_at)

    def reply(self, kind: str, event: Event) -> Reply:
        """See `WebhookSource.reply`.

        /fallback and /disaster get the degraded answer: no agent is promised where one can't be.

        At /fallback Twilio had no answer from /voice, and nothing is stored: the fallback number,
        else the apology. Where it had none from /dial, what comes after that dial: nobody is put
        through again to whom they have just talked to, or who did not answer.

        At /disaster Twilio could not reach LiveKit over the trunk, so whoever waits is put through
        to the fallback number rather than to the same failure again. Where there is none, LiveKit
        is dialled by `<Dial><Sip>` once: it takes another way than the trunk (own credentials,
        transport and host), and when it fails too, /dial ends the call with the apology. So nothing
        asks for ever.

        At /refer the agent has sent the caller elsewhere. Its dial has that URL only where the
        number has a fallback: without the URL Twilio refuses, and the agent keeps its caller; with
        it, whoever may not go there goes to the fallback (`router.routing.decide`).
        """
        if kind not in _TWIML:
            return _OK if kind == "porting" else _NO_CONTENT
        return Reply(200, self._twiml(kind, event), CONTENT_TYPE)

    def diagnose(self, request: WebhookRequest) -> str:
        """See `WebhookSource.diagnose`."""
        return diagnose(
            request, public_url=self._public_url, bases=self._bases, keyring=self._keyring
        )

    def _twiml(self, kind: str, event: Event) -> bytes:
        decision = event.data.decision
        if decision is None:  # the caller has talked to somebody, and the dial is over
            unasked = kind == "fallback" and event.type is EventType.CALL_INITIATED
            return self._answers.apology if unasked else self._answers.hang_up
        degraded = kind in ("fallback", "disaster")
        if decision.fallback and (degraded or decision.action == "forward"):
            data = event.data
            # Who came by SIP or WhatsApp has no number that Twilio would show to a telephone.
            caller = data.from_number if data.channel in ("", "pstn") else ""
            return self._answers.to_number(decision.fallback, caller=caller, called=data.to_number)
        if decision.action == "dispatch" and kind != "fallback":
            return self._answers.to_agent(event.call_id, transfers=bool(decision.fallback))
        return self._answers.apology


def _stage(url: str) -> str:
    return parse_qs(url.partition("?")[2]).get("stage", [""])[0]


def _failed_action(fields: Fields) -> str:
    """The stage of the dial whose action URL failed, "" where another URL did."""
    url = fields.get("ErrorUrl", "")
    stage = _stage(url)
    return stage if url.partition("?")[0].endswith(_DIAL) and stage in events.STAGES else ""
