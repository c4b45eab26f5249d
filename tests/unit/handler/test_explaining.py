"""Explain: maps by hand, pictures pixel by pixel, and which classes and pictures a request may ask for."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from export import bundle
from export.network import Head
from handler import explaining, ranking
from handler.cropping import CROP, crop, crop_box
from handler.decoder import Decoded, read_answer
from handler.decoder_process import decode
from handler.errors import ErrorCode, RequestError
from handler.explaining import class_activation_maps, explain, overlay_heatmap, overlay_on_original, to_heatmap, to_png
from handler.options import LONGEST, MAX_TARGETS, ExplainOptions, Overlays
from handler.ranking import ClassIndex, load_class_index, select
from handler.scoring import CPU, Network
from tests.photos import cutouts, encode

IMAGENET = load_class_index(bundle.IMAGENET_CLASSES)
OWN = ClassIndex(("7", "x", "Bär", "b", "1,2"), ("seven", "cat", "Cat", "tabby, or tiger", "red_car"))
GREY = Image.new("RGB", (224, 224), "grey")


def make_network(classes: int) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """A network whose head has random weights, those, and its biases; nobody asks for its trunk."""
    eager = nn.Module()
    eager.classifier = nn.Linear(1024, classes)
    head = torch.jit.script(Head(eager).eval())
    return Network(head, head, CPU), eager.classifier.weight.detach(), eager.classifier.bias.detach()


def pixels(picture: Image.Image) -> "np.ndarray[Any, Any]":
    return np.asarray(picture).astype(int)


def peak(row: int, column: int) -> torch.Tensor:
    places = torch.full((7, 7), -3.0)
    places[row, column] = 2.0
    return places


class TestEvidence:
    def test_a_map_is_the_activations_weighted_by_the_classs_row(self) -> None:
        network, weights, biases = make_network(5)
        activations = torch.randn(49, 1024).relu()
        maps, bias = class_activation_maps(network, activations)
        assert torch.equal(bias, biases)
        torch.testing.assert_close(maps, torch.einsum("pf,cf->cp", activations, weights).view(5, 7, 7))

    def test_its_mean_and_the_bias_are_the_logit(self) -> None:
        network, _, _ = make_network(5)
        activations = torch.randn(49, 1024).relu()
        maps, bias = class_activation_maps(network, activations)
        torch.testing.assert_close(maps.mean((1, 2)) + bias, network.head(activations.unsqueeze(0))[0])

    def test_rows_run_from_the_top_and_each_from_the_left(self) -> None:
        network, weights, _ = make_network(2)
        activations = torch.zeros(49, 1024)
        activations[1 * 7 + 5] = weights[1]
        maps, _ = class_activation_maps(network, activations)
        assert divmod(int(maps[1].argmax()), 7) == (1, 5)


def look(picture: Image.Image, why: ExplainOptions | None) -> Decoded:
    return look_at(encode(picture, "PNG"), why)


def look_at(content: bytes, why: ExplainOptions | None) -> Decoded:
    """An image as the decoder hands it over, without the process."""
    request = {"max_pixels": 10**8, "pixels_left": 10**8, "min_side": None, "colour_profiles": False}
    request["shown"] = why.shown if why else None
    answer, pixels = decode(request, content)
    return read_answer({**answer, "cpu": 0}, bytearray(b"".join(pixels)))


class TestExplain:
    def ask(self, why: ExplainOptions, seen: Decoded | None) -> Any:
        network, _, _ = make_network(5)
        activations = torch.randn(49, 1024).relu()
        return explain(network, network.head(activations.unsqueeze(0))[0], activations, OWN, why, seen)

    def test_unasked_it_is_the_best_class(self) -> None:
        network, _, _ = make_network(5)
        activations = torch.randn(49, 1024).relu()
        logits = network.head(activations.unsqueeze(0))[0]
        (only,) = explain(network, logits, activations, OWN, ExplainOptions(), look(GREY, ExplainOptions()))
        assert only.prediction.index == logits.argmax()
        assert only.prediction.probability == pytest.approx(torch.softmax(logits, 0).max().item())

    def test_classes_come_in_the_order_asked_for_and_as_often(self) -> None:
        explanations = self.ask(ExplainOptions((3, 0, 3), Overlays.NONE), look(GREY, None))
        assert [row.prediction.class_id for row in explanations] == ["b", "7", "b"]
        assert explanations[0].map == explanations[2].map
        assert [len(row.map) for row in explanations] == [7] * 3
        assert {len(line) for row in explanations for line in row.map} == {7}

    @pytest.mark.parametrize(
        ("overlays", "overlay", "picture"),
        [("crop", True, False), ("picture", False, True), ("both", True, True), ("none", False, False)],
    )
    def test_only_the_pictures_asked_for_are_made(self, overlays: str, overlay: bool, picture: bool) -> None:
        why = ExplainOptions((1,), Overlays(overlays))
        (row,) = self.ask(why, look(GREY, why))
        assert (row.overlay is not None, row.picture is not None) == (overlay, picture)

    def test_a_png_is_of_the_first_class_only(self) -> None:
        why = ExplainOptions((1, 2), Overlays.CROP, png=True)
        assert [row.prediction.index for row in self.ask(why, look(GREY, why))] == [1]

    def test_of_a_preprocessed_image_there_is_the_map_alone(self) -> None:
        (row,) = self.ask(ExplainOptions((1,)), None)
        assert (row.overlay, row.picture, len(row.map)) == (None, None, 7)

    def test_evidence_that_overflows_is_the_clients_mistake(self) -> None:
        network, weights, _ = make_network(5)
        activations = 3e38 * weights[1].sign().expand(49, 1024)
        with pytest.raises(RequestError) as refused:
            explain(network, torch.zeros(5), activations, OWN, ExplainOptions((1,)), None)
        assert refused.value.code is ErrorCode.BAD_TENSOR


class TestDecoded:
    def test_a_prediction_keeps_the_crop_alone(self) -> None:
        photo = cutouts(1)[0]
        seen = look(photo, None)
        assert seen.shown is None
        assert seen.crop == crop(photo).tobytes()

    @pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (513, 2), (1, 100_000), (100_000, 1)])
    def test_the_picture_that_is_kept_is_small(self, size: tuple[int, int]) -> None:
        seen = look(Image.new("RGB", size), ExplainOptions())
        assert seen.shown is not None
        assert (max(seen.shown.size), min(seen.shown.size) > 0) == (LONGEST, True)

    def test_a_small_picture_stays_as_it_is(self) -> None:
        seen = look(picture := cutouts(3)[2].resize((80, 50)), ExplainOptions())
        assert seen.shown is not None
        assert seen.shown.tobytes() == picture.tobytes()

    @pytest.mark.parametrize("overlays", [Overlays.CROP, Overlays.NONE])
    def test_a_picture_that_is_not_shown_is_not_kept(self, overlays: Overlays) -> None:
        seen = look(cutouts(1)[0], ExplainOptions(overlays=overlays))
        assert seen.shown is None

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_box_is_that_of_the_picture_as_a_person_sees_it(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        width, height = (100, 400) if orientation < 5 else (400, 100)
        content = encode(Image.new("RGB", (width, height)), exif=exif)
        seen = look_at(content, ExplainOptions())
        assert seen.shown is not None
        assert seen.shown.size == (100, 400)
        left, top, right, bottom = seen.box
        assert (left, 1 - right) == pytest.approx((16 / 255, 15 / 255))  # 15.5 is rounded to the even number
        assert (top, 1 - bottom) == pytest.approx((398 / 1020, 398 / 1020))


SIZES = [(224, 224), (500, 335), (335, 500), (255, 600), (4000, 3000), (1001, 7), (7, 1001), (3, 900), (20_000, 256)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_crops_box_is_where_the_crops_pixels_come_from(width: int, height: int) -> None:
    """Each pixel of these pictures holds its own position."""
    left, top, right, bottom = crop_box(width, height)
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    middles = (np.arange(CROP) + 0.5) / CROP
    for positions, low, high, axis in ((across, left, right, 0), (down, top, bottom, 1)):
        found = np.asarray(crop(Image.fromarray(positions.astype(np.float32)))).mean(axis=axis)
        expected = low + middles * (high - low)
        # At the border of a picture, and only there, there is nothing beyond to average with.
        inside = slice(2, -2) if min(width, height) >= CROP else slice(CROP // 3, -CROP // 3)
        # Pillow weighs whole pixels, which moves an average by a little.
        np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=0.08 * max(1, (high - low) / CROP))


@pytest.mark.parametrize(("width", "height"), [*SIZES, (1, 1), (1, 1_000_000), (1_000_000, 1), (255, 255)])
def test_the_crops_box_is_within_the_picture(width: int, height: int) -> None:
    left, top, right, bottom = crop_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


class TestHeat:
    def test_evidence_against_a_class_shows_nothing(self) -> None:
        heat = to_heatmap(peak(2, 3))
        assert sorted(heat.tobytes()) == [0] * 48 + [255]
        assert heat.getpixel((3, 2)) == 255

    @pytest.mark.parametrize("value", [0.0, -1.0, -3e38])
    def test_where_nothing_speaks_for_a_class_the_picture_is_as_it_was(self, value: float) -> None:
        heat = to_heatmap(torch.full((7, 7), value))
        assert heat.getextrema() == (0, 0)
        photo = crop(cutouts(1)[0])
        assert overlay_heatmap(photo, heat).tobytes() == photo.tobytes()

    @pytest.mark.parametrize("value", [0.0, -1e-45, -1.0, -3e38])
    def test_nothing_is_zero_and_a_number(self, value: float) -> None:
        assert torch.equal(explaining._levels(torch.full((7, 7), value)), torch.zeros(7, 7))

    @pytest.mark.parametrize("value", [1e-45, 1e-30, 1.0, 3e38])
    def test_it_is_relative_to_the_strongest_evidence(self, value: float) -> None:
        places = torch.zeros(7, 7)
        places[0, 0] = value
        assert to_heatmap(places).getextrema() in {(0, 255), (0, 0) if value < 1e-38 else (0, 255)}

    @pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (6, 0), (6, 6), (3, 1)])
    def test_it_lies_where_its_place_is(self, row: int, column: int) -> None:
        changed = np.abs(pixels(overlay_heatmap(GREY, to_heatmap(peak(row, column)))) - pixels(GREY)).sum(axis=2)
        y, x = np.unravel_index(changed.argmax(), changed.shape)
        assert (y // 32, x // 32) == (row, column)
        assert changed[(row + 3) % 7 * 32 + 16].sum() == 0

    def test_the_colours_are_infernos(self) -> None:
        ours = np.array(explaining._palette()).reshape(256, 3)
        theirs = colormaps["inferno"](np.arange(256))[:, :3] * 255
        assert np.abs(ours - theirs).max() < 20  # levels, between its nine steps
        assert (np.diff(ours @ [0.2126, 0.7152, 0.0722]) > -0.5).all()


class TestLayBack:
    def test_around_the_crop_the_picture_is_dimmed_and_in_it_only_the_heat_is_new(self) -> None:
        photo = cutouts(2)[1].resize((400, 300))
        crop_ = (0.25, 0.1, 0.75, 0.9)
        plain = pixels(overlay_on_original(photo, to_heatmap(torch.zeros(7, 7)), crop_))
        within = np.zeros((300, 400), dtype=bool)
        within[30:270, 100:300] = True
        assert (plain[within] == pixels(photo)[within]).all()
        assert (plain[~within] == pixels(photo)[~within] // 2).all()
        hot = pixels(overlay_on_original(photo, to_heatmap(peak(0, 6)), crop_))
        changed = np.abs(hot - plain).sum(axis=2)
        y, x = np.unravel_index(changed.argmax(), changed.shape)
        assert (30 <= y < 30 + 240 / 7, 300 - 200 / 7 <= x < 300) == (True, True)

    @pytest.mark.parametrize("size", [(1, 512), (512, 1), (2, 3), (1, 1), (512, 5)])
    def test_a_picture_of_a_few_pixels_can_be_shown(self, size: tuple[int, int]) -> None:
        box = crop_box(*size)
        fractions = box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]
        assert overlay_on_original(Image.new("RGB", size), to_heatmap(peak(3, 3)), fractions).size == size

    def test_the_picture_itself_is_left_as_it_was(self) -> None:
        photo = cutouts(1)[0]
        before = photo.tobytes()
        overlay_on_original(photo, to_heatmap(peak(3, 3)), (0.2, 0.2, 0.8, 0.8))
        assert photo.tobytes() == before


def test_a_png_loses_nothing() -> None:
    photo = cutouts(1)[0]
    with Image.open(io.BytesIO(to_png(photo))) as read:
        assert (read.format, read.tobytes()) == ("PNG", photo.tobytes())


def read(classes: ClassIndex = IMAGENET, **chosen: object) -> ExplainOptions:
    return ExplainOptions.read(chosen, classes)


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "positions"),
        [
            (None, ()),
            ("n02124075", (285,)),
            (" N02124075 ", (285,)),
            ("Egyptian_cat", (285,)),
            ("egyptian  CAT", (285,)),
            ("285", (285,)),
            (285, (285,)),
            (0, (0,)),
            ("0", (0,)),
            ("999", (999,)),
            ("cardigan", (474,)),  # the garment, as it is written; the dog is a Cardigan
            ("Cardigan", (264,)),
            ("n02012849,517 , Tench", (134, 517, 0)),
            (["Egyptian_cat", 7, "n02012849"], (285, 7, 134)),
            (["7", "7"], (7, 7)),
        ],
    )
    def test_a_class_has_an_id_a_position_and_a_name(self, target: object, positions: tuple[int, ...]) -> None:
        assert read(target=target).targets == positions

    @pytest.mark.parametrize(
        ("target", "position"),
        [("7", 0), (0, 0), ("1", 1), ("cat", 1), ("Cat", 2), ("bär", 2), ("tabby, or tiger", 3), ("1,2", 4), ("4", 4)],
    )
    def test_a_model_of_ones_own_has_names_of_its_own(self, target: object, position: int) -> None:
        assert read(OWN, target=target).targets == (position,)

    @pytest.mark.parametrize(
        ("target", "ids"),
        [("crane", "n02012849 and n03126707"), ("MAILLOT", "n03710637 and n03710721"), ("CARDIGAN", "n02963159")],
    )
    def test_a_name_of_several_is_refused_with_their_ids(self, target: str, ids: str) -> None:
        with pytest.raises(RequestError, match=ids) as refused:
            read(target=target)
        assert refused.value.code is ErrorCode.BAD_OPTION

    @pytest.mark.parametrize(
        "target",
        [
            *("", " ", ",", "tench,", "n00000000", "cat ", "1000", "-1", "1e2", "٣", "9" * 5000, "x" * 100_000),
            *("," * 100_000, "tench," * 10 + "tench", "\0", "\n[PID]99999999999", "<script>", "n0212407" + "\ud800"),
            *(-1, 1000, 10**400, 0.5, 285.1, True, False, float("nan"), {}, {"b64": "tench"}, []),
            *([[]], [["tench"]], [None], [True], ["tench"] * (MAX_TARGETS + 1), ["x" * 100_000], [10**400]),
        ],
    )
    def test_what_is_no_class_is_refused_in_a_few_words(self, target: object) -> None:
        with pytest.raises(RequestError) as refused:
            read(target=target)
        assert refused.value.code is ErrorCode.BAD_OPTION
        assert refused.value.message.replace("…", "").isascii()
        assert len(refused.value.message) < 300

    def test_there_may_be_so_many_and_no_more(self) -> None:
        assert len(read(target=",".join(map(str, range(MAX_TARGETS)))).targets) == MAX_TARGETS
        with pytest.raises(RequestError, match="target must name 1 to 10 classes, not 11"):
            read(target=list(range(MAX_TARGETS + 1)))


class TestOverlays:
    @pytest.mark.parametrize(
        ("chosen", "png", "overlays"),
        [
            (None, False, Overlays.BOTH),
            (None, True, Overlays.CROP),
            *((name, False, Overlays(name)) for name in Overlays),
            ("crop", True, Overlays.CROP),
            ("picture", True, Overlays.PICTURE),
        ],
    )
    def test_a_request_chooses_its_pictures(self, chosen: str | None, png: bool, overlays: Overlays) -> None:
        assert ExplainOptions.read({"overlays": chosen}, IMAGENET, png=png).overlays is overlays

    @pytest.mark.parametrize(
        ("chosen", "png"),
        [(bad, False) for bad in ("", "CROP", "crops", "crop,picture", 7, True, False, [], ["crop"], {}, "x" * 10_000)]
        + [("none", True), ("both", True)],
    )
    def test_others_are_refused(self, chosen: object, png: bool) -> None:
        with pytest.raises(RequestError, match="overlays must be one of crop") as refused:
            ExplainOptions.read({"overlays": chosen}, IMAGENET, png=png)
        assert refused.value.code is ErrorCode.BAD_OPTION
        assert len(refused.value.message) < 300


def test_looking_up_a_class_agrees_with_the_ranking() -> None:
    logits = torch.randn(1000)
    ranked = ranking.top_k(logits, IMAGENET, 9)
    assert select(logits, IMAGENET, [row.index for row in ranked]) == ranked
