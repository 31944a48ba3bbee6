"""Settings: what they are, where they come from (`load`) and what may not be (`check`)."""

from config.check import ConfigProblem, check
from config.load import UnreadableSettings, load
from config.settings import Settings

__all__ = ["ConfigProblem", "Settings", "UnreadableSettings", "check", "load"]
