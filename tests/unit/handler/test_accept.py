"""Reading the headers that say what a client would have."""

import pytest

from handler.accept import qualities


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ("image/png", {"image/png": 1.0}),
        ("IMAGE/PNG ; Q=0.5", {"image/png": 0.5}),
        ("a;q=0, b;level=1;q=0.25, */*", {"a": 0.0, "b": 0.25, "*/*": 1.0}),
        ("a;q=0.5, a;q=0.9", {"a": 0.5}),
        (";;q=,ko;q=2", {"ko": 1.0}),
    ],
)
def test_each_name_has_a_quality_and_the_first_of_a_repeated_one_counts(header: str, found: dict[str, float]) -> None:
    assert qualities(header) == found
    assert list(qualities(header)) == list(found)
