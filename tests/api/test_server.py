"""What the server does for every dialect."""

from pathlib import Path

from tests.support.api import running_api

ME = "/api/switchboard/v1/me"


async def test_a_token_is_known(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        client = await api.account("acme")
        reply = await client.get(ME)
        assert reply.status == 200, reply.text
        assert reply.json["account_name"] == "acme"
        assert reply.headers["X-Request-Id"].startswith("req_")
        assert (await api.request("GET", ME)).status == 401
