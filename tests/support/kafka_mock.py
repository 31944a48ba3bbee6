"""librdkafka's mock cluster: brokers on loopback that fail on command. No Java needed.

It comes with the confluent-kafka wheel, which exports it to nobody, so it is called through ctypes
(declared in librdkafka's `rdkafka_mock.h`). It keeps no sequence numbers of idempotent producers
and creates topics with the first question about them; what needs either runs on the real Kafka.
"""

import ctypes
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MSG_SIZE_TOO_LARGE: Final = 10  # kafka.apache.org/protocol, error codes
_PRODUCE: Final = 0  # same place, API keys
_PRODUCER: Final = 0  # rd_kafka_type_t
_ERROR_SIZE: Final = 512


def _library() -> ctypes.CDLL:
    files = importlib.metadata.files("confluent-kafka") or []
    (path,) = [file for file in files if file.match("confluent_kafka.libs/librdkafka-*")]
    library = ctypes.CDLL(str(path.locate()))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, number]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_partition_set_leader", number, [pointer, text, number, number]),
        ("rd_kafka_mock_broker_set_host_port", None, [pointer, number, text, number]),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """One broker, id 1. `port` is where it listens, whatever it advertises."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library = library
        self._cluster = handle
        self.bootstrap: str = library.rd_kafka_mock_cluster_bootstraps(handle).decode()
        self.port = int(self.bootstrap.rpartition(":")[2])

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """Broker -1: the partition has no leader."""
        self._library.rd_kafka_mock_partition_set_leader(
            self._cluster, topic.encode(), partition, broker
        )

    def advertise(self, host: str, port: int) -> None:
        """What clients are told to connect to after the bootstrap."""
        self._library.rd_kafka_mock_broker_set_host_port(self._cluster, 1, host.encode(), port)

    def fail_produce(self, *errors: int) -> None:
        """Answer the next produce requests with these errors."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, _PRODUCE, len(errors), array
        )


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    """An empty cluster of one broker."""
    library = _library()
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    client = library.rd_kafka_new(_PRODUCER, library.rd_kafka_conf_new(), error, _ERROR_SIZE)
    if not client:
        raise RuntimeError(f"librdkafka: {error.value.decode()}")
    handle = library.rd_kafka_mock_cluster_new(client, 1)
    try:
        yield MockCluster(library, handle)
    finally:
        library.rd_kafka_mock_cluster_destroy(handle)
        library.rd_kafka_destroy(client)
