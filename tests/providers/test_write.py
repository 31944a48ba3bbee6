"""What writes the records of payload files, of which the shared suite makes so much."""

import json
import shutil
from pathlib import Path

from tests.providers.found import FOLDER
from tests.providers.write import fill


def test_events_that_are_missing_are_written_as_they_were_and_others_stay(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "vocode" / "payloads", tmp_path, dirs_exist_ok=True)
    recorded = {path: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    kept, *emptied = sorted(recorded)
    kept.write_text('{"status": 200, "source": "by hand", "events": []}')
    for path in emptied:
        by_hand = {name: value for name, value in recorded[path].items() if name != "events"}
        path.write_text(json.dumps(by_hand))
    assert list(fill("vocode", tmp_path)) == emptied
    for path in emptied:
        assert json.loads(path.read_text()) == recorded[path]
    assert json.loads(kept.read_text())["events"] == []
