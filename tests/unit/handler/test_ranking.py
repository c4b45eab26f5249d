"""Labels: the repository's class index is ImageNet's, others are checked, and ranking is softmax."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import DenseNet121_Weights

from export import ROOT
from handler import ranking
from handler.ranking import ClassIndex, load_class_index

IMAGENET = load_class_index(ROOT / "handler" / "imagenet_class_index.json")


def test_imagenet_has_1000_classes_with_ids_of_their_own_in_wordnets_order() -> None:
    assert len(IMAGENET) == len(IMAGENET.names) == 1000
    assert len(set(IMAGENET.ids)) == 1000
    assert list(IMAGENET.ids) == sorted(IMAGENET.ids)
    assert all(re.fullmatch(r"n\d{8}", class_id) for class_id in IMAGENET.ids)


@pytest.mark.parametrize(
    ("position", "class_id", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane"),
        (166, "n02089867", "Walker_hound"),
        (285, "n02124075", "Egyptian_cat"),
        (517, "n03126707", "crane"),
        (638, "n03710637", "maillot"),
        (639, "n03710721", "maillot"),
        (999, "n15075141", "toilet_tissue"),
    ],
)
def test_imagenets_classes_are_where_they_belong(position: int, class_id: str, name: str) -> None:
    assert (IMAGENET.ids[position], IMAGENET.names[position]) == (class_id, name)


def test_imagenets_names_are_torchvisions_but_for_two_that_repeat() -> None:
    categories = [name.replace(" ", "_") for name in DenseNet121_Weights.IMAGENET1K_V1.meta["categories"]]
    differ = [i for i, (ours, theirs) in enumerate(zip(IMAGENET.names, categories, strict=True)) if ours != theirs]
    assert differ == [134, 639]


@pytest.mark.parametrize(
    ("document", "ids", "names"),
    [
        ({"0": ["a", "one"], "1": ["b", "two"]}, ("a", "b"), ("one", "two")),
        ({"1": ["b", "two"], "0": ["a", "one"]}, ("a", "b"), ("one", "two")),
        ({"0": "one", "1": "two"}, ("one", "two"), ("one", "two")),
        (["one", "two"], ("one", "two"), ("one", "two")),
        ([["a", "same"], ["b", "same"]], ("a", "b"), ("same", "same")),
        ({str(i): f"class {i}" for i in range(12)}, *[tuple(f"class {i}" for i in range(12))] * 2),
        (["Käse", "猫"], ("Käse", "猫"), ("Käse", "猫")),
    ],
    ids=["object", "unordered", "names", "list of names", "list of pairs", "more than ten", "non-ascii"],
)
def test_every_form_of_a_class_index_is_read(
    document: object, ids: tuple[str, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    assert load_class_index(path) == ClassIndex(ids, names)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"tench\ngoldfish\n",
        b"\xff\xfe\x00",
        b"{}",
        b"[]",
        b"null",
        b"1000",
        b'"tench"',
        b'{"1": "tench"}',
        b'{"0": "a", "2": "b"}',
        b'{"tench": 0, "goldfish": 1}',
        b'{"00": "a"}',
        b'{"-1": "b", "0": "a"}',
        b'{"0": ""}',
        b'{"0": null}',
        b'{"0": 7}',
        b'{"0": []}',
        b'{"0": ["n1"]}',
        b'{"0": ["n1", "tench", "extra"]}',
        b'{"0": ["n1", ""]}',
        b'{"0": ["", "tench"]}',
        b'{"0": ["n1", 5]}',
        b'{"0": {"id": "n1", "name": "tench"}}',
        b'{"0": ["n1", "a"], "1": ["n1", "b"]}',
        b'["crane", "crane"]',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:30].decode("latin-1") or "empty",
)
def test_a_malformed_class_index_is_a_value_error_of_one_line_that_names_the_file(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_class_index(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [('{"0": "a", "2": "b"}', "position 1"), ('{"0": "a", "1": 7}', "7"), ('["a", "b", "b"]', "'b'")],
)
def test_the_message_names_what_is_wrong(content: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=named):
        load_class_index(path)


def numpy_softmax(logits: torch.Tensor) -> np.ndarray:
    values = logits.numpy().astype(np.float64)
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("top_k", [1, 5, 1000])
def test_ranking_is_softmax_over_all_classes_best_first(top_k: int, scale: float) -> None:
    logits = torch.randn(1000) * scale
    ranked = ranking.top_k(logits, IMAGENET, top_k)
    best = np.argsort(-logits.numpy(), kind="stable")[:top_k]
    assert [prediction.class_id for prediction in ranked] == [IMAGENET.ids[i] for i in best]
    assert [prediction.probability for prediction in ranked] == sorted(
        (prediction.probability for prediction in ranked), reverse=True
    )
    expected = numpy_softmax(logits)
    positions = [IMAGENET.ids.index(prediction.class_id) for prediction in ranked]
    assert [IMAGENET.names[i] for i in positions] == [prediction.label for prediction in ranked]
    np.testing.assert_allclose([p.probability for p in ranked], expected[positions], rtol=0, atol=1e-6)
    assert positions[0] == int(logits.argmax())


THREE = ClassIndex(("a", "b", "c"), ("crane", "dog", "crane"))


@pytest.mark.parametrize(("top_k", "expected"), [(1, "b"), (2, "bc"), (3, "bca"), (4, "bca"), (1000, "bca")])
def test_an_answer_has_top_k_classes_or_all_there_are(top_k: int, expected: str) -> None:
    ranked = ranking.top_k(torch.tensor([-1.0, 2.0, 0.5]), THREE, top_k)
    assert "".join(prediction.class_id for prediction in ranked) == expected


def test_classes_of_the_same_name_are_kept_apart() -> None:
    first, second = ranking.top_k(torch.tensor([3.0, -9.0, 2.0]), THREE, 2)
    assert (first.class_id, second.class_id) == ("a", "c")
    assert first.label == second.label == "crane"
    assert first.probability == pytest.approx(1 / (1 + np.exp(-1.0) + np.exp(-12.0)), abs=1e-6)
    assert second.probability == pytest.approx(1 / (1 + np.exp(1.0) + np.exp(-11.0)), abs=1e-6)


def test_a_tie_lists_each_class_once_with_the_same_probability() -> None:
    ranked = ranking.top_k(torch.zeros(3), THREE, 3)
    assert sorted(prediction.class_id for prediction in ranked) == ["a", "b", "c"]
    assert [prediction.probability for prediction in ranked] == [pytest.approx(1 / 3, abs=1e-6)] * 3


def test_huge_logits_do_not_overflow() -> None:
    best, *rest = ranking.top_k(torch.tensor([3e38, -3e38, 0.0]), THREE, 3)
    assert (best.class_id, best.probability) == ("a", 1.0)
    assert [prediction.probability for prediction in rest] == [0.0, 0.0]
