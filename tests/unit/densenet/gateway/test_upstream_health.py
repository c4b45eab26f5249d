"""Which replicas are asked after all others."""

from pathlib import Path

import pytest

from densenet.gateway import upstream_health

A, B, C = (Path(name) for name in "abc")


@pytest.mark.parametrize(
    ("passing", "unhealthy"),
    [
        ({A: True, B: True}, set()),
        ({A: False, B: True}, {A}),
        ({A: False, B: True, C: False}, {A, C}),
        ({A: False, B: False}, set()),
        ({A: False}, set()),
    ],
)
def test_those_that_fail_while_another_passes(passing: dict[Path, bool], unhealthy: set[Path]) -> None:
    assert upstream_health.failing(passing) == unhealthy


def test_where_nobody_listens_nobody_passes(tmp_path: Path) -> None:
    assert upstream_health.is_healthy(tmp_path / "none.sock") is False
