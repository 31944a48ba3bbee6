"""A dialect as a parameter: all that there are."""

import pytest

from router.api.app import dialects


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dialect" in metafunc.fixturenames:
        metafunc.parametrize("dialect", dialects(), ids=lambda each: each.name)
