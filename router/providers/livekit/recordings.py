"""Egress webhooks as recordings (docs.livekit.io/home/egress/api).

Only an egress into files is a recording; streams, segments and images are not.
"""

from typing import Final

import msgspec
from google.protobuf.message import Message
from livekit.protocol.egress import EgressInfo, EgressStatus, FileInfo

from router.events.model import EventData
from router.events.types import EventType

_FILES: Final = ("file", "file_outputs")  # fields of the requests that ask for files
_DONE: Final = (EgressStatus.EGRESS_COMPLETE, EgressStatus.EGRESS_LIMIT_REACHED)
_FAILED: Final = (EgressStatus.EGRESS_FAILED, EgressStatus.EGRESS_ABORTED)


def kind_of(event: str, info: EgressInfo) -> EventType | None:
    """What an egress webhook tells of a recording, None where it tells of none."""
    if not _is_into_files(info):
        return None
    if event == "egress_started":
        return EventType.RECORDING_STARTED
    if event != "egress_ended":
        return None
    if info.status in _FAILED:
        return EventType.RECORDING_FAILED
    return EventType.RECORDING_COMPLETED if info.status in _DONE else None


def facts_of(info: EgressInfo, data: EventData) -> EventData:
    """`data` with what the egress says: its id, the file's place and length, the error."""
    files = _results(info)
    first = files[0] if files else FileInfo()
    return msgspec.structs.replace(
        data,
        recording_id=info.egress_id,
        recording_url=first.location,
        duration=first.duration / 1e9 if first.duration else None,  # ns
        error_code=str(info.error_code) if info.error_code else "",
        reason=info.error,
    )


def _is_into_files(info: EgressInfo) -> bool:
    if _results(info):
        return True
    which = info.WhichOneof("request")
    if which is None:
        return False
    request: Message = getattr(info, which)
    fields = {field.name: value for field, value in request.ListFields()}
    outputs = fields.get("outputs", ())  # of the request that replaced all others
    return any(name in fields for name in _FILES) or any(out.HasField("file") for out in outputs)


def _results(info: EgressInfo) -> list[FileInfo]:
    return list(info.file_results) or ([info.file] if info.HasField("file") else [])
