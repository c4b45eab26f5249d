"""Precisions that not every machine can compute."""

import pytest

from handler import hardware


def needs(precision: str) -> pytest.MarkDecorator:
    """Skip a test where the machine does not support this precision."""
    try:
        hardware.check(precision)
    except ValueError as error:
        return pytest.mark.skipif(True, reason=str(error))
    return pytest.mark.skipif(False, reason="")
