"""Sealed secrets: with which key, for whom, and inside documents."""

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config import load
from config.check import ConfigProblem
from router.errors import ConfigError, Invalid
from router.secrets import FORMER_FILE, load_key, load_keys, replace_key
from router.vault import Unreadable, Vault, conceal, mask, masked, open_vault, reseal, reveal

OLD, NEW = b"o" * 32, b"n" * 32
SECRET = "a secret of some length"


def test_what_was_sealed_opens_for_its_owner_alone() -> None:
    vault = Vault([NEW])
    sealed = vault.seal("one", {"auth_token": SECRET})
    assert SECRET.encode() not in sealed
    assert vault.open("one", sealed) == {"auth_token": SECRET}
    assert sealed != vault.seal("one", {"auth_token": SECRET})  # another nonce
    with pytest.raises(Unreadable):
        vault.open("two", sealed)


@pytest.mark.parametrize("where", [0, 1, 5, 17, -1])
def test_a_changed_byte_is_seen(where: int) -> None:
    vault = Vault([NEW])
    sealed = bytearray(vault.seal("one", {"auth_token": SECRET}))
    sealed[where] ^= 1
    with pytest.raises(Unreadable):
        vault.open("one", bytes(sealed))
    for cut in (b"", bytes(sealed[:10]), bytes(sealed[:17])):
        with pytest.raises(Unreadable):
            vault.open("one", cut)


def test_after_a_rotation_former_keys_open_and_the_first_seals() -> None:
    former, vault = Vault([OLD]), Vault([NEW, OLD])
    sealed = former.seal("one", {"auth_token": SECRET})
    assert vault.open("one", sealed) == {"auth_token": SECRET}
    assert not vault.is_current(sealed)
    fresh = vault.seal("one", {"auth_token": SECRET})
    assert vault.is_current(fresh)
    with pytest.raises(Unreadable):
        former.open("one", fresh)


def test_a_mask_shows_the_end_of_what_is_long_enough() -> None:
    assert mask("01234567") == "…4567"
    assert mask("0123456") == "…"


DOCUMENT: dict[str, Any] = {
    "name": "an agent",
    "max_tokens": 100,
    "has_secret": True,
    "voice": {"type": "eleven", "api_key": SECRET},
    "webhooks": [{"secret": SECRET, "headers": {"Authorization": "Bearer of a thing"}}],
    "credentials": {"account": "AC0123456789", "deep": [{"pin": 1234}], "none": None},
    "apiKey": SECRET,
    "input_schema": {"properties": {"password": {"type": "string"}, "token": "a word"}},
    "password": {"type": "string"},
    "empty_token": "",
}  # fmt: skip


def test_secrets_in_a_document_are_sealed_in_their_place() -> None:
    vault = Vault([NEW])
    stored = conceal(vault, "one", DOCUMENT)
    text = msgspec.json.encode(stored).decode()
    for secret in (SECRET, "Bearer", "AC0123", "1234}"):
        assert secret not in text
    assert reveal(vault, "one", stored) == DOCUMENT
    shown = masked(stored)
    assert shown["voice"] == {"type": "eleven", "api_key": "…ngth"}
    assert shown["webhooks"][0]["headers"] == {"Authorization": "…hing"}
    assert shown["credentials"] == {"account": "…6789", "deep": [{"pin": "…"}], "none": None}
    for kept in ("name", "max_tokens", "has_secret", "input_schema", "password", "empty_token"):
        assert shown[kept] == DOCUMENT[kept]
    with pytest.raises(Unreadable):
        reveal(vault, "two", stored)


def test_a_masked_secret_that_is_sent_back_keeps_the_stored_one() -> None:
    vault = Vault([NEW])
    stored = conceal(vault, "one", DOCUMENT)
    assert conceal(vault, "one", masked(stored), stored) == stored
    changed = masked(stored) | {"apiKey": "another secret", "name": "renamed"}
    again = conceal(vault, "one", changed, stored)
    assert reveal(vault, "one", again) == DOCUMENT | {
        "apiKey": "another secret",
        "name": "renamed",
    }


@pytest.mark.parametrize(
    "document",
    [
        {"api_key": "…ngth"},  # nothing is stored
        {"voice": {"api_key": "…else"}},  # another than the stored one
        {"voice": {"$sealed": "AAAA", "$masked": "…"}},  # nobody sends what only we make
        {"voice": {"api_key": {"$sealed": "AAAA", "$masked": "…"}}},
        {"input_schema": {"properties": {"$sealed": "AAAA", "$masked": "…"}}},
    ],
)
def test_what_only_looks_stored_is_refused_by_its_field(document: dict[str, Any]) -> None:
    vault = Vault([NEW])
    stored = conceal(vault, "one", {"voice": {"api_key": SECRET}})
    with pytest.raises(Invalid) as refused:
        conceal(vault, "one", document, stored)
    assert refused.value.problems[0][0][:2] == ("body", next(iter(document)))


def test_a_document_is_sealed_anew_under_the_current_key() -> None:
    former, vault = Vault([OLD]), Vault([NEW, OLD])
    stored = conceal(former, "one", DOCUMENT)
    fresh = reseal(vault, "one", stored)
    assert fresh is not None
    assert reveal(Vault([NEW]), "one", fresh) == DOCUMENT
    assert reseal(vault, "one", fresh) is None
    assert reseal(vault, "one", {"name": "no secret"}) is None


def test_the_data_folders_former_keys_open_after_a_new_one(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": str(tmp_path)})
    running = open_vault(settings)
    sealed = running.seal("one", {"auth_token": SECRET})
    first, second = load_key("", tmp_path), None
    replace_key(tmp_path)
    second = load_key("", tmp_path)
    replace_key(tmp_path)
    assert load_keys("", (), tmp_path) == [load_key("", tmp_path), second, first]
    assert stat.S_IMODE((tmp_path / FORMER_FILE).stat().st_mode) == 0o600
    after = open_vault(settings)
    assert after.open("one", sealed) == {"auth_token": SECRET}
    assert not after.is_current(sealed)
    # The process that still runs learns the new key when it meets it.
    assert running.open("one", after.seal("one", {"auth_token": "new"})) == {"auth_token": "new"}


def test_settings_name_the_former_keys_of_many_nodes(tmp_path: Path) -> None:
    common = {"data_dir": str(tmp_path), "secret_key": NEW.hex()}
    vault = open_vault(load(overrides=common | {"previous_secret_keys": [OLD.hex()]}))
    assert vault.open("one", Vault([OLD]).seal("one", {"a": "b"})) == {"a": "b"}
    assert vault.is_current(vault.seal("one", {"a": "b"}))
    with pytest.raises(ConfigProblem, match="previous_secret_keys"):
        load(overrides=common | {"previous_secret_keys": ["no key of 32 bytes"]})
    assert not (tmp_path / "secret.key").exists()


def test_a_damaged_file_of_former_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / FORMER_FILE).write_text("no key")
    with pytest.raises(ConfigError, match=FORMER_FILE):
        load_keys("", (), tmp_path)
