"""The TwiML that answers Twilio (twilio.com/docs/voice/twiml).

Documents are built once by Twilio's SDK; an answer only puts the call's id in. Equal events give
equal bytes, so a repeated webhook gets what the first one got.
"""

from typing import Final
from urllib.parse import quote

from twilio.twiml.voice_response import Dial, VoiceResponse

from router.errors import ConfigError
from router.events.phone import is_e164
from router.provider import ProviderContext, SipTarget

CONTENT_TYPE: Final = "text/xml"
_CALL_ID: Final = "00000000-call-0000-0000-id0000000000"  # as long as a call_id
_URI_LIMIT: Final = 255  # of <Sip>, twilio.com/docs/voice/twiml/sip


class Answers:
    """Every TwiML document that this process can give.

    Raises:
        ValueError: the SIP URI would be longer than Twilio takes (254 characters).
    """

    def __init__(
        self,
        *,
        public_url: str,
        target: SipTarget,
        dial_timeout: int,
        apology: str,
        language: str,
    ) -> None:
        self._base = f"{public_url}/webhooks/twilio"
        self._dial_timeout = dial_timeout
        self._agent = self._agent_document(target)
        self._agent_who_transfers = self._agent_document(target, refer_url=f"{self._base}/refer")
        self.apology = _apology(apology, language)
        self.hang_up = _hang_up()

    def to_agent(self, call_id: str, *, transfers: bool = False) -> bytes:
        """Dial into the room of the call; its end is asked about at /dial.

        With `transfers`, a SIP REFER of the agent's is asked about at /refer; else Twilio refuses
        it (twilio.com/docs/api/errors/13802).
        """
        document = self._agent_who_transfers if transfers else self._agent
        return document.replace(_CALL_ID, call_id).encode()

    def to_number(self, number: str, *, caller: str, called: str) -> bytes:
        """Dial a fallback number, which is shown the caller's, else the called one.

        Twilio dials no number for whom has none (a client, a SIP user, a caller ID that is wrong)
        unless it is told to show another (twilio.com/docs/api/errors/13214).

        Raises:
            ValueError: the fallback is not E.164.
        """
        if not is_e164(number):
            raise ValueError("the fallback is not an E.164 number")
        response = VoiceResponse()
        shown = called if is_e164(called) and not is_e164(caller) else None
        dial = self._dial("fallback", caller_id=shown)
        dial.number(number)
        response.append(dial)
        return _encode(response)

    def _agent_document(self, target: SipTarget, *, refer_url: str | None = None) -> str:
        uri = target.uri(_CALL_ID)
        if len(uri) >= _URI_LIMIT:
            raise ValueError(
                f"livekit.sip_host is too long: the SIP URI must have under {_URI_LIMIT} characters"
            )
        response = VoiceResponse()
        dial = self._dial("agent", refer_url=refer_url)
        dial.sip(
            uri,
            username=target.username,
            password=target.password,
            status_callback=f"{self._base}/status",
            status_callback_event="answered completed",
        )
        response.append(dial)
        return _encode(response).decode()

    def _dial(
        self, stage: str, *, caller_id: str | None = None, refer_url: str | None = None
    ) -> Dial:
        return Dial(
            action=f"{self._base}/dial?stage={quote(stage)}",
            method="POST",
            timeout=self._dial_timeout,
            answer_on_bridge=True,
            caller_id=caller_id,
            refer_url=refer_url,
            refer_method="POST" if refer_url else None,
        )


def answers_of(context: ProviderContext) -> Answers:
    """The documents as the settings want them. Raises ConfigError, which names the setting."""
    twilio = context.settings.providers.twilio
    try:
        return Answers(
            public_url=context.settings.public_url,
            target=context.target,
            dial_timeout=twilio.dial_timeout,
            apology=twilio.apology,
            language=twilio.voice_language,
        )
    except ValueError as error:
        raise ConfigError(str(error), key="livekit.sip_host") from error


def _apology(text: str, language: str) -> bytes:
    response = VoiceResponse()
    response.say(text, language=language)
    response.hangup()
    return _encode(response)


def _hang_up() -> bytes:
    response = VoiceResponse()
    response.hangup()
    return _encode(response)


def _encode(response: VoiceResponse) -> bytes:
    return str(response).encode()
