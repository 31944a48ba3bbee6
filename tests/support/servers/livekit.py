"""LiveKit: the server (rooms, dispatch, webhooks) and its SIP bridge.

    with redis_server() as redis, livekit_server(redis=redis, webhook_url=url) as livekit:
        with livekit_sip(livekit, redis=redis) as sip:
            ...  # livekit.url, livekit.api_key, livekit.api_secret; sip.host, sip.port

Both are bound to loopback and advertise it (node_ip, nat_1_to_1_ip), so media never leaves it.
"""

import http
import http.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Final

import yaml
from typing_extensions import override

from tests.support.servers.inventory import program
from tests.support.servers.ports import HOST, free_port, free_range
from tests.support.servers.process import Server, server_folder
from tests.support.servers.redis import Redis

API_KEY: Final = "devkey"
API_SECRET: Final = "a-secret-for-tests-of-at-least-32-characters"
_RTP_PORTS: Final = 200  # two for each call at once


class LiveKit(Server):
    """livekit-server. Without Redis it refuses everything about SIP."""

    name = "livekit"
    # It waits for participants without limit; what a test left in a room must not hold up the run.
    grace: ClassVar[float] = 2.0

    def __init__(self, folder: Path, *, redis: Redis | None, webhook_url: str | None) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.ws_url = f"ws://{HOST}:{self.port}"
        self.api_key = API_KEY
        self.api_secret = API_SECRET
        configuration: dict[str, object] = {
            "port": self.port,
            "bind_addresses": [HOST],
            "keys": {API_KEY: API_SECRET},
            "rtc": {
                "tcp_port": free_port(),
                "udp_port": free_port(),
                "use_external_ip": False,
                "node_ip": HOST,
                "enable_loopback_candidate": True,
            },
        }
        if redis is not None:
            configuration["redis"] = {"address": redis.address}
        if webhook_url is not None:
            configuration["webhook"] = {"api_key": API_KEY, "urls": [webhook_url]}
        _write(folder / "livekit.yaml", configuration)

    @override
    def command(self) -> Sequence[str]:
        return [str(program("livekit")), "--config", "livekit.yaml"]

    @override
    def serves(self) -> bool:
        return _healthy(self.port)


class LiveKitSip(Server):
    """livekit-sip: takes calls on `host`:`port`, UDP and TCP."""

    name = "livekit-sip"
    grace: ClassVar[float] = 2.0  # it waits for its calls, as the server does for participants

    def __init__(self, folder: Path, *, livekit: LiveKit, redis: Redis) -> None:
        super().__init__(folder)
        self.host = HOST
        self.port = free_port()
        self.address = (self.host, self.port)
        self._health_port = free_port()
        rtp = free_range(_RTP_PORTS)
        _write(
            folder / "sip.yaml",
            {
                "api_key": livekit.api_key,
                "api_secret": livekit.api_secret,
                "ws_url": livekit.ws_url,
                "redis": {"address": redis.address},
                "sip_port": self.port,
                "rtp_port": f"{rtp}-{rtp + _RTP_PORTS - 1}",
                "nat_1_to_1_ip": HOST,
                "listen_ip": HOST,
                "use_external_ip": False,
                "health_port": self._health_port,
                # With the default of 0.9 a busy machine refuses calls: "cpu exhausted".
                "max_cpu_utilization": 1,
            },
        )

    @override
    def command(self) -> Sequence[str]:
        return [str(program("sip")), "--config", "sip.yaml"]

    @override
    def serves(self) -> bool:
        return _healthy(self._health_port)


def _write(path: Path, configuration: Mapping[str, object]) -> None:
    path.write_text(yaml.safe_dump(dict(configuration)))


def _healthy(port: int) -> bool:
    with closing(http.client.HTTPConnection(HOST, port, timeout=2)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK


@contextmanager
def livekit_server(
    *, redis: Redis | None = None, webhook_url: str | None = None
) -> Iterator[LiveKit]:
    """livekit-server on free ports; it posts its webhooks to `webhook_url`."""
    with (
        server_folder("livekit") as folder,
        LiveKit(folder, redis=redis, webhook_url=webhook_url) as server,
    ):
        yield server


@contextmanager
def livekit_sip(livekit: LiveKit, *, redis: Redis) -> Iterator[LiveKitSip]:
    """livekit-sip for `livekit`; both must share `redis`."""
    with (
        server_folder("livekit-sip") as folder,
        LiveKitSip(folder, livekit=livekit, redis=redis) as server,
    ):
        yield server
