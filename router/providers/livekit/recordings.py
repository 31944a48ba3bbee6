"""Egress webhooks as recordings (docs.livekit.io/home/egress/api).

Only an egress into files is a recording; streams, segments and images are not.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from router.events.model import EventData
from router.events.types import EventType
from router.providers.livekit.message import EgressInfo, FileInfo

_DONE: Final = ("EGRESS_COMPLETE", "EGRESS_LIMIT_REACHED")
_FAILED: Final = ("EGRESS_FAILED", "EGRESS_ABORTED")


def kind_of(event: str, info: EgressInfo) -> EventType | None:
    """What an egress webhook tells of a recording, None where it tells of none."""
    if not _is_into_files(info):
        return None
    if event == "egress_started":
        return EventType.RECORDING_STARTED
    if event != "egress_ended":
        return None
    if info.status_name in _FAILED:
        return EventType.RECORDING_FAILED
    return EventType.RECORDING_COMPLETED if info.status_name in _DONE else None


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
    asked = info.request
    return bool(
        _results(info)
        or asked.file is not None
        or asked.file_outputs
        or any(output.file is not None for output in asked.outputs)
    )


def _results(info: EgressInfo) -> Sequence[FileInfo]:
    return info.file_results or ([info.file] if info.file is not None else [])
