"""What the bare programs of the comparisons share: verify as Twilio says, answer a constant.

Not a strawman: the fastest way that is still right. No parsing beyond what the signature needs, no
limits, no metrics, no event, no decision.
"""

import hmac
from base64 import b64encode
from urllib.parse import parse_qsl

from aiohttp import web
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.twilio import TOKEN

TOPIC = "bench.calls"

TWIML = (
    b'<?xml version="1.0" encoding="UTF-8"?><Response><Dial answerOnBridge="true" timeout="20">'
    b"<Sip>sip:room@127.0.0.1;transport=tcp</Sip></Dial></Response>"
)


def verify(public_url: str, request: web.Request, body: bytes) -> dict[str, str]:
    """The form's fields. Raises HTTPForbidden."""
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    text = public_url + request.raw_path + "".join([name + form[name] for name in sorted(form)])
    expected = b64encode(hmac.digest(TOKEN.encode(), text.encode(), "sha1")).decode()
    if not hmac.compare_digest(expected, request.headers.get("X-Twilio-Signature", "")):
        raise web.HTTPForbidden
    return form


def answer() -> web.Response:
    """The constant TwiML."""
    return web.Response(body=TWIML, content_type="text/xml")


async def listen(app: web.Application, port: int = 0) -> tuple[web.AppRunner, int]:
    """Serve `app` on loopback; the runner to clean up, and the port."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, int(runner.addresses[0][1])


def make_topic(bootstrap: str) -> None:
    """The bare programs' topic, with as many partitions as Switchboard's have."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(TOPIC, 6, 1)])[TOPIC].result(30)
