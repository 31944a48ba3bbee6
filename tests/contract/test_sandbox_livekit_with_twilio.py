"""Both stand-ins together: a call from the carrier's webhook to the agent's voice."""

from livekit.api import LiveKitAPI
from livekit.protocol import agent_dispatch as proto

from router.sandbox.livekit import LiveKitStandIn
from router.sandbox.twilio import TwilioStandIn
from tests.support.sandbox_livekit import API_KEY, API_SECRET, PASSWORD, USER, wildcard_trunk
from tests.support.sandbox_twilio import ACCOUNT, CALLED, CALLER, TOKEN, server


async def test_a_call_reaches_its_agent() -> None:
    async with (
        server() as web,
        LiveKitStandIn(api_key=API_KEY, api_secret=API_SECRET) as lk,
        LiveKitAPI(lk.url, API_KEY, API_SECRET) as client,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=web.url, dial_sip=lk.invite
        ) as twilio,
    ):
        await wildcard_trunk(client)
        lk.register_worker("anna")
        web.says(
            "/webhooks/twilio/voice",
            '<Dial answerOnBridge="true" timeout="20">'
            f'<Sip username="{USER}" password="{PASSWORD}">'
            "sip:a-call-id@sip.example;transport=tcp</Sip></Dial>",
        )
        call = twilio.place_call(CALLED, CALLER)
        await client.agent_dispatch.create_dispatch(
            proto.CreateAgentDispatchRequest(room="a-call-id", agent_name="anna")
        )
        assert await call.answered()
        room = lk.rooms.get("a-call-id")
        assert room is not None
        caller = room.participants[f"sip_{CALLER}"]
        assert caller.attributes["sip.twilio.callSid"].startswith("CA")
        call.hangup()
        assert await call.ended() == "completed"
        assert [job.room for job in lk.jobs] == ["a-call-id"]
