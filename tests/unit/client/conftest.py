"""Clients that try again at once."""

from collections.abc import Iterator

import pytest
import stamina


@pytest.fixture(autouse=True)
def _impatient() -> Iterator[None]:
    """No waiting between tries."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield
