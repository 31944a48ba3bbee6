"""Twilio's ids: two letters and 32 hexadecimal digits."""

import secrets


def call_sid() -> str:
    """A new `CA…`."""
    return "CA" + secrets.token_hex(16)
