"""The TeXML that answers Telnyx (developers.telnyx.com/docs/voice/programmable-voice/texml-verbs).

It is TwiML in most, so Twilio's SDK builds it; what differs: `<Dial>` has no `answerOnBridge`
(Telnyx answers a call before it asks for the document), and rings for 5 to 120 seconds.
"""

from typing import Final

from twilio.twiml.voice_response import Dial, VoiceResponse

from router.events.phone import is_e164
from router.provider import ProviderContext, SipTarget
from router.providers.telnyx.action import Actions

CONTENT_TYPE: Final = "application/xml"
_CALL_ID: Final = "00000000-call-0000-0000-id0000000000"
_ACTION: Final = "/the-path-of-the-action"
_PLACE: Final = "/the-place-of-the-connection"
_LONGEST_RING: Final = 120  # seconds


class Answers:
    """Every TeXML document that this process can give; equal events get equal bytes."""

    def __init__(
        self,
        *,
        public_url: str,
        target: SipTarget,
        actions: Actions,
        dial_timeout: int,
        apology: str,
        language: str,
    ) -> None:
        self._base = f"{public_url}/webhooks/telnyx"
        self._actions = actions
        self._dial_timeout = min(dial_timeout, _LONGEST_RING)
        self._agent = self._agent_document(target)
        self.apology = _apology(apology, language)
        self.hang_up = _hang_up()

    def to_agent(self, call_id: str, called: str, connection_id: str = "") -> bytes:
        """Dial into the room of the call to `called`; its end is asked about at /texml/dial.

        `connection_id`: what Telnyx asks bears its key, so it is asked at its paths.
        """
        path = self._actions.path("agent", called)
        document = self._agent.replace(_CALL_ID, call_id).replace(_ACTION, path)
        return document.replace(_PLACE, _place(connection_id)).encode()

    def to_number(self, number: str, called: str, connection_id: str = "") -> bytes:
        """Dial the fallback number of `called`. Raises ValueError unless it is E.164."""
        if not is_e164(number):
            raise ValueError("the fallback is not an E.164 number")
        response = VoiceResponse()
        dial = self._dial(self._actions.path("fallback", called))
        dial.number(number)
        response.append(dial)
        return str(response).replace(_PLACE, _place(connection_id)).encode()

    def _agent_document(self, target: SipTarget) -> str:
        response = VoiceResponse()
        dial = self._dial(_ACTION)
        dial.sip(
            target.uri(_CALL_ID),
            username=target.username,
            password=target.password,
            status_callback=f"{self._base}{_PLACE}/texml/status",
            status_callback_event="answered completed",
        )
        response.append(dial)
        return str(response)

    def _dial(self, path: str) -> Dial:
        action = self._base + _PLACE + path
        return Dial(action=action, method="POST", timeout=self._dial_timeout)


def _place(connection_id: str) -> str:
    return f"/c/{connection_id}" if connection_id else ""


def answers_of(context: ProviderContext) -> Answers:
    """The documents as the settings want them."""
    telnyx = context.settings.providers.telnyx
    return Answers(
        public_url=context.settings.public_url,
        target=context.target,
        actions=Actions(context.target.password),
        dial_timeout=telnyx.dial_timeout,
        apology=telnyx.apology,
        language=telnyx.voice_language,
    )


def _apology(text: str, language: str) -> bytes:
    response = VoiceResponse()
    response.say(text, language=language)
    response.hangup()
    return str(response).encode()


def _hang_up() -> bytes:
    response = VoiceResponse()
    response.hangup()
    return str(response).encode()
