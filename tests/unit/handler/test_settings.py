"""Settings: the defaults are the repository's, and nothing out of range reaches a worker."""

from dataclasses import asdict
from typing import Any

import pytest
import yaml

from export import ROOT
from handler.settings import Settings

CONFIG = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text(encoding="utf-8"))
DEFAULTS = {
    "top_k": 5,
    "min_probability": 0.2,
    "max_images": 16,
    "max_image_pixels": 64_000_000,
    "max_request_pixels": 128_000_000,
    "decode_seconds": 5.0,
    "request_seconds": 15.0,
    "decode_memory": 1_500_000_000,
    "exact_decoding": False,
    "apply_colour_profiles": False,
    "max_request_bytes": 10_485_760,
    "max_response_bytes": 6_000_000,
    "threads": "auto",
    "network_batch": 4,
}
LIMITS = {
    "top_k": (1, 1000),
    "min_probability": (0, 1),
    "max_images": (1, 1000),
    "max_image_pixels": (1, 178_956_970),
    "max_request_pixels": (1, 1_000_000_000_000),
    "decode_seconds": (0.1, 3600),
    "request_seconds": (0.1, 3600),
    "decode_memory": (200_000_000, 1_000_000_000_000),
    "max_request_bytes": (1000, 2_000_000_000),
    "max_response_bytes": (1000, 2_000_000_000),
    "threads": (1, 1024),
    "network_batch": (1, 4096),
}
WHOLE = [name for name in LIMITS if name not in ("min_probability", "decode_seconds", "request_seconds")]


def settings(classes: int = 1000, **section: Any) -> Settings:
    return Settings.from_config({"batchSize": 1, "handler": section}, classes)


@pytest.mark.parametrize("config", [None, {}, {"handler": None}, {"handler": {}}, {"batchSize": 1}])
def test_what_is_not_set_has_its_default(config: dict[str, object] | None) -> None:
    assert asdict(Settings.from_config(config, 1000)) == DEFAULTS
    assert asdict(Settings.from_config(config, 2)) == DEFAULTS | {"min_probability": 0.71}


def test_threads_are_a_number_or_auto() -> None:
    assert settings(threads="auto").threads == "auto"
    assert settings(threads=2).threads == 2
    with pytest.raises(ValueError, match=r"threads must be a whole number from 1 to 1024, or auto, not 'all'"):
        settings(threads="all")


def test_one_setting_leaves_the_others_alone() -> None:
    assert asdict(settings(top_k=3)) == DEFAULTS | {"top_k": 3}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(1, 1), (2, 0.71), (3, 0.58), (5, 0.45), (10, 0.32), (24, 0.2), (100, 0.2), (1000, 0.2), (20_000, 0.2)],
)
def test_the_default_threshold_depends_on_the_number_of_classes(classes: int, expected: float) -> None:
    assert settings(classes).min_probability == expected


def test_chance_is_far_below_the_default_threshold() -> None:
    assert all(1.4 / classes <= settings(classes).min_probability <= 0.71 for classes in range(2, 2000))


@pytest.mark.parametrize(("classes", "value"), [(5, 0.2), (5, 0.1), (2, 0.5), (3, 1 / 3), (1000, 0), (1, 1)])
def test_a_threshold_that_every_image_reaches_is_refused_with_what_would_do(classes: int, value: float) -> None:
    with pytest.raises(
        ValueError, match=rf"handler\.min_probability must be above .*{classes} classes, not "
    ) as caught:
        settings(classes, min_probability=value)
    assert str(caught.value).endswith(f"leave it out for the default of {settings(classes).min_probability:g}")
    assert "\n" not in str(caught.value)


def test_a_threshold_above_chance_is_taken() -> None:
    assert settings(5, min_probability=0.21).min_probability == 0.21


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, pair in LIMITS.items() for value in pair if (name, value) != ("min_probability", 0)],
)
def test_a_value_at_its_limit_is_taken(name: str, value: int) -> None:
    assert getattr(settings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, pair[0] - 1) for name, pair in LIMITS.items()]
    + [(name, pair[1] + 1) for name, pair in LIMITS.items()]
    + [("min_probability", value) for value in (-0.001, 1.001, float("nan"), float("inf"), float("-inf"))],
)
def test_a_value_past_its_limit_is_named_with_its_key(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"handler\.{name} ") as caught:
        settings(**{name: value})
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [True, False, "1", "", None, [1], {"a": 1}], ids=repr)
def test_a_value_of_another_type_is_named_with_its_key(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"handler\.{name} ") as caught:
        settings(**{name: value})
    assert str(caught.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_is_no_whole_number(name: str) -> None:
    with pytest.raises(ValueError, match=rf"handler\.{name} must be a whole number .*not 1000\.5"):
        settings(**{name: 1000.5})


@pytest.mark.parametrize("name", LIMITS)
def test_the_message_names_limits_that_can_be_used_as_they_stand(name: str) -> None:
    low, high = LIMITS[name]
    with pytest.raises(ValueError, match=rf"from {low} to {high}, (or auto, )?not"):
        settings(**{name: high + 1})


@pytest.mark.parametrize("key", ["topk", "top-k", "TOP_K", "batchSize", "", 5])
def test_an_unknown_setting_is_named(key: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"unknown setting handler\.{key}; valid settings: \w+, \w+, \w+ and 11 others"
    ):
        Settings.from_config({"handler": {"top_k": 5, key: 1}}, 1000)


@pytest.mark.parametrize("key", ["topk", "top-k", "top_n"])
def test_the_setting_that_was_meant_is_named_first(key: str) -> None:
    with pytest.raises(ValueError, match="valid settings: top_k, "):
        Settings.from_config({"handler": {key: 1}}, 1000)


@pytest.mark.parametrize("section", ["top_k: 5", [1], 7, True])
def test_a_section_that_is_no_mapping_is_refused(section: object) -> None:
    with pytest.raises(ValueError, match="handler must be"):
        Settings.from_config({"handler": section}, 1000)


def test_the_repositorys_config_spells_out_the_defaults() -> None:
    assert CONFIG["handler"] == {name: value for name, value in DEFAULTS.items() if name != "min_probability"}
    assert asdict(Settings.from_config(CONFIG, 1000)) == DEFAULTS


def test_the_repositorys_config_has_both_timeouts_without_which_torchserve_forces_its_own() -> None:
    assert CONFIG["responseTimeout"] > 0
    assert CONFIG["startupTimeout"] > 0


def test_the_retry_timeout_in_milliseconds_fits_torchserves_int() -> None:
    assert 0 < CONFIG["maxRetryTimeoutInSec"] * 1000 < 2**31


@pytest.mark.parametrize("value", [0, 1, "yes", "false", None, []])
def test_a_switch_is_true_or_false(value: object) -> None:
    with pytest.raises(ValueError, match=r"handler\.exact_decoding must be true or false"):
        Settings.from_config({"handler": {"exact_decoding": value}}, 1000)


def test_a_switch_can_be_set() -> None:
    assert Settings.from_config({"handler": {"exact_decoding": True}}, 1000).exact_decoding is True
