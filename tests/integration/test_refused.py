"""A webhook that one setting would let in: 403, and the log, /readyz and doctor say which."""

from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from router.cli.doctor import examine
from tests.support.ingress import logged
from tests.support.nodes import TOKEN, apply_text, free_port, node_settings, running
from tests.support.twilio_requests import form, headers, new_sid, sign

VOICE = "/webhooks/twilio/voice"
CONFIGURED_AT_TWILIO = "https://calls.example.org"


async def test_the_public_url_that_would_have_matched_is_named(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url="http://127.0.0.1:1")
    routes = await apply_text(settings)
    fields = form(CallSid=new_sid())
    signed = headers(sign(VOICE, fields, base=CONFIGURED_AT_TWILIO, token=TOKEN))
    signed["Host"] = "calls.example.org"  # as the proxy passes it on
    wanted = f'public_url = "{CONFIGURED_AT_TWILIO}"'
    with logged() as lines:
        async with running(settings, routes=routes) as node, aiohttp.ClientSession() as session:
            assert "refused" not in node.health()[1]
            url = settings.public_url + VOICE
            async with session.post(url, data=urlencode(fields), headers=signed) as answer:
                assert answer.status == 403
                assert CONFIGURED_AT_TWILIO not in await answer.text()  # strangers learn nothing
            assert wanted in node.health()[1]["refused"]["twilio"]
            findings = {found.what: found for found in await examine(settings)}
            mended = headers(sign(VOICE, fields, base=settings.public_url, token=TOKEN))
            async with session.post(url, data=urlencode(fields), headers=mended) as answer:
                assert answer.status == 200
            assert "refused" not in node.health()[1]
    assert findings["webhooks"].level == "problem"
    assert wanted in findings["webhooks"].words
    assert "calls.example.org" in lines.text
    assert TOKEN not in lines.text


async def test_strangers_can_not_have_it_found_out_without_end(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url="http://127.0.0.1:1")
    routes = await apply_text(settings)
    fields = form(CallSid=new_sid())
    forged = headers(sign(VOICE, fields, base=CONFIGURED_AT_TWILIO, token="a-guess"))
    signed = headers(sign(VOICE, fields, base=CONFIGURED_AT_TWILIO, token=TOKEN))
    signed["Host"] = "calls.example.org"
    with logged():
        async with running(settings, routes=routes) as node, aiohttp.ClientSession() as session:
            for sent in [forged] * 25 + [signed]:
                url = settings.public_url + VOICE
                async with session.post(url, data=urlencode(fields), headers=sent) as answer:
                    assert answer.status == 403
            assert "refused" not in node.health()[1]


async def test_a_forged_signature_leads_nowhere(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, port=free_port(), livekit_url="http://127.0.0.1:1")
    routes = await apply_text(settings)
    fields = form(CallSid=new_sid())
    signed = headers(sign(VOICE, fields, base=CONFIGURED_AT_TWILIO, token="a-guess"))
    with logged():
        async with running(settings, routes=routes) as node, aiohttp.ClientSession() as session:
            url = settings.public_url + VOICE
            async with session.post(url, data=urlencode(fields), headers=signed) as answer:
                assert answer.status == 403
            assert "refused" not in node.health()[1]
            findings = {found.what: found for found in await examine(settings)}
    assert findings["webhooks"].level == "ok"
