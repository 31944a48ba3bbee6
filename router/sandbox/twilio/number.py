"""A number's configuration: where its calls are reported."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """URLs as set on the number; empty ones are not called."""

    voice_url: str
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    voice_fallback_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"


def default_number(webhook_base: str) -> Number:
    """As Switchboard sets a number up."""
    base = webhook_base.rstrip("/") + "/webhooks/twilio"
    return Number(
        voice_url=f"{base}/voice",
        voice_fallback_url=f"{base}/fallback",
        status_callback=f"{base}/status",
    )
