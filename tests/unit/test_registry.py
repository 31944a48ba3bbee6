"""`router.registry`: parts found by their folder's name."""

import pytest

from consumers.consumer import ConsumerSpec
from router import registry
from router.errors import ConfigError


def test_every_consumer_folder_exports_a_consumer_of_its_name() -> None:
    names = registry.names("consumers")
    assert {"calls", "dispatch"} <= set(names)
    for name in names:
        spec = registry.load("consumers", name, "CONSUMER", ConsumerSpec)
        assert spec.name == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"consumers has no 'fax'; there are: calls, dispatch"):
        registry.load("consumers", "fax", "CONSUMER", ConsumerSpec)


def test_an_export_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="must export CONSUMER, a int"):
        registry.load("consumers", "calls", "CONSUMER", int)
    with pytest.raises(ConfigError, match="must export NOTHING"):
        registry.load("consumers", "calls", "NOTHING", ConsumerSpec)
