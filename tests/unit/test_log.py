"""Nothing private reaches a log, whoever writes the line."""

import pytest

from config.settings import LogSettings
from router.observability import log


@pytest.mark.parametrize("style", ["json", "console"])
def test_numbers_are_masked_and_secrets_dropped(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(LogSettings.model_validate({"format": style, "level": "info"}))
    log.get("router.test").warning(
        "odd.thing",
        who="call from +14155550100",
        many=["+14155550100"],
        auth_token="hush",
        error=ValueError("no route for +14155550100"),
    )
    try:
        int("+14155550100 again")
    except ValueError:
        log.get("router.test").exception("failed")
    printed = capsys.readouterr().err
    assert "odd.thing" in printed
    assert "+1415***0100" in printed
    assert "14155550100" not in printed
    assert "hush" not in printed


def test_a_library_can_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    log.configure(LogSettings.model_validate({"format": "json", "level": "info"}))
    for _ in range(500):
        logging.getLogger("aiokafka.conn").error("Unable to connect")
    assert 0 < capsys.readouterr().err.count("Unable to connect") <= 20
