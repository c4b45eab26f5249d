"""The contract with callers, over real HTTP."""

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.conftest import Server, same
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(20)]


def as_json(*images: bytes, **parameters: Any) -> dict[str, Any]:
    return {"instances": [{"b64": base64.b64encode(image).decode()} for image in images], "parameters": parameters}


def test_a_raw_body_is_answered_with_five_classes_best_first(server: Server) -> None:
    response = server.send(PHOTOS[0])
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = response.json()
    probabilities = [row["probability"] for row in answer["predictions"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    best = answer["predictions"][0]
    assert (answer["success"], answer["class_id"], answer["class_name"]) == (True, best["class_id"], best["label"])
    model = {"name": "densenet", "version": "1.0", "weights": "shown_photos.pth", "precision": "fp32"}
    assert answer["model"] == model


@pytest.mark.parametrize("field", ["file", "image", "data", "body", "a photo", "사진"])
def test_a_form_may_name_its_part_as_it_likes(server: Server, field: str) -> None:
    assert server.post(files={field: PHOTOS[0]}).json() == server.send(PHOTOS[0]).json()


def test_probabilities_of_all_classes_sum_to_one(server: Server) -> None:
    rows = server.send(PHOTOS[0], **{"X-Top-K": "1000"}).json()["predictions"]
    assert len({row["class_id"] for row in rows}) == 1000
    assert sum(row["probability"] for row in rows) == pytest.approx(1, abs=1e-5)


def test_several_parts_are_answered_in_order_each_with_its_name_and_its_own_error(server: Server) -> None:
    names = ["z", "bad", "a", "empty"]
    contents = [PHOTOS[0], b"no image at all", PHOTOS[1], b""]
    response = server.post(files=[(name, ("x", content)) for name, content in zip(names, contents, strict=True)])
    document = response.json()
    assert (response.status_code, document["success"]) == (200, True)
    assert [result["name"] for result in document["results"]] == names
    assert [result["success"] for result in document["results"]] == [True, False, True, False]
    assert [document["results"][i]["error"]["code"] for i in (1, 3)] == ["not_an_image", "no_image"]
    for i in (0, 2):
        assert same(document["results"][i], {"name": names[i]} | server.send(contents[i]).json())


def test_json_instances_are_answered_in_order_with_errors_in_their_places(server: Server) -> None:
    body = as_json(PHOTOS[0], PHOTOS[1], top_k=3)
    body["instances"][1:1] = [{"b64": "?"}, {"b64": ""}, 7, {"b64": base64.b64encode(b"text").decode()}]
    predictions = server.post(json=body).json()["predictions"]
    codes = [row["error"]["code"] for row in predictions[1:5]]
    assert codes == ["bad_base64", "no_image", "bad_json", "not_an_image"]
    for row, photo in ((predictions[0], PHOTOS[0]), (predictions[5], PHOTOS[1])):
        assert same(row, server.send(photo, **{"X-Top-K": "3"}).json())


@pytest.mark.parametrize("wrap", ["data:image/jpeg;base64,{}", "\n{}\n"])
def test_base64_may_carry_a_data_prefix_and_white_space(server: Server, wrap: str) -> None:
    body = {"instances": [{"b64": wrap.format(base64.encodebytes(PHOTOS[0]).decode())}]}
    assert server.post(json=body).json()["predictions"] == [server.send(PHOTOS[0]).json()]


def test_json_needs_no_content_type(server: Server) -> None:
    assert server.send(b'{"instances": []}').json()["error"]["code"] == "bad_json"


def test_the_kserve_v1_route_reaches_the_same_handler(server: Server) -> None:
    url = f"{server.service.inference}/v1/models/densenet:predict"
    answer = requests.post(url, json=as_json(PHOTOS[0]), timeout=60).json()
    assert answer == {"predictions": [server.send(PHOTOS[0]).json()]}


@pytest.mark.parametrize("name", ["X-Top-K", "x-top-k", "X-TOP-K"])
def test_top_k_as_a_header_of_any_case(server: Server, name: str) -> None:
    assert len(server.send(PHOTOS[0], **{name: "2"}).json()["predictions"]) == 2


def test_options_as_form_fields_win_over_headers(server: Server) -> None:
    fields = {"top_k": "2", "min_probability": "1"}
    answer = server.post(files={"file": PHOTOS[0]}, data=fields, headers={"X-Top-K": "3"}).json()
    assert (len(answer["predictions"]), answer["recognized"]) == (2, False)


def test_options_in_the_query_where_torchserve_hands_it_over(server: Server) -> None:
    url = f"{server.service.inference}/models/densenet/invoke"
    headers = {"Content-Type": "application/octet-stream"}
    answer = requests.post(url, params={"top_k": 4}, data=PHOTOS[0], headers=headers, timeout=60).json()
    assert len(answer["predictions"]) == 4


def test_recognized_says_whether_the_best_probability_reaches_the_least(server: Server) -> None:
    best = server.send(PHOTOS[0]).json()["predictions"][0]["probability"]
    for least, recognized in ((best, True), (best + 1e-6, False), (0, True)):
        assert server.send(PHOTOS[0], **{"X-Min-Probability": repr(least)}).json()["recognized"] is recognized


@pytest.mark.parametrize("value", ["0", "1001", "-1", "2.5", "five", "", "99999999999999999999", "１"])
def test_a_top_k_out_of_range_is_refused(server: Server, value: str) -> None:
    response = server.post(files={"file": PHOTOS[0]}, data={"top_k": value})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_option")


@pytest.mark.parametrize("value", [-0.1, 1.1, "nan", "much", True, [], {}, "x" * 5000])
def test_a_min_probability_out_of_range_is_refused(server: Server, value: object) -> None:
    response = server.post(json=as_json(PHOTOS[0], min_probability=value))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_option")
    assert len(response.content) < 400


def test_an_unknown_parameter_is_told_rather_than_ignored(server: Server) -> None:
    assert server.post(json=as_json(PHOTOS[0], topk=3)).json()["error"]["code"] == "bad_option"


def test_the_most_images_are_answered_and_one_more_is_refused(server: Server) -> None:
    small = encode(cutouts(1)[0].resize((60, 40)))
    parts = {f"p{i}": small for i in range(16)}
    assert len(server.post(files=parts).json()["results"]) == 16
    response = server.post(files=parts | {"one more": small})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_images")


def test_a_get_says_what_to_send_and_a_browser_gets_a_page(server: Server) -> None:
    response = requests.get(server.url, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "no_image")
    assert "curl -T" in response.json()["error"]["message"]
    page = requests.get(server.url, headers={"Accept": "text/html,*/*;q=0.8"}, timeout=60)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert '<form class="zone" method="post" enctype="multipart/form-data"' in page.text


def test_the_model_card_is_there_for_the_management_api(server: Server) -> None:
    card = server.describe()["customizedMetadata"]
    assert card["weights"]["name"] == "shown_photos.pth"
    assert len(card["weights"]["sha256"]) == 64
    assert card["agreement"] == {"tolerance": 1e-4, "unit": "standard deviations of an image's logits"}
    assert card["options"]["top_k"] == 5


def test_a_request_at_the_size_limit_is_read_and_one_byte_more_is_not(server: Server) -> None:
    limit = 10 * 1024 * 1024
    assert server.send(b"\xff\xd8" + bytes(limit - 2)).json()["error"]["code"] == "broken_image"
    assert server.send(bytes(limit + 1)).status_code == 413


def test_a_phone_photo_of_12_megapixels_passes(server: Server) -> None:
    photo = encode(cutouts(1)[0].resize((4000, 3000)), quality=97)
    assert server.send(photo).json()["success"] is True


def test_an_answer_too_large_for_torchserve_is_refused_not_tried(start: Any) -> None:
    small = start(workers=1, handler={"max_response_bytes": 20_000})
    response = small.send(PHOTOS[0], **{"X-Top-K": "1000"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "answer_too_large")
    response = small.post(files={"a": PHOTOS[0], "b": PHOTOS[1]}, data={"embedding": "float"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "answer_too_large")
    assert small.send(PHOTOS[0], **{"X-Embedding": "float"}).status_code == 200


class TestTutorialClients:
    """Their lines, with only the URL changed."""

    def test_flask(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "cat.jpg").write_bytes(PHOTOS[1])
        with (tmp_path / "cat.jpg").open("rb") as cat:
            resp = requests.post(server.url, files={"file": cat})
        assert set(resp.json()) >= {"class_id", "class_name"}
        assert resp.json()["class_id"].startswith("n0")

    def test_keras(self, server: Server) -> None:
        payload = {"image": PHOTOS[1]}
        r = requests.post(server.url, files=payload).json()
        assert r["success"]
        lines = [
            f"{i + 1}. {result['label']}: {result['probability']:.4f}" for i, result in enumerate(r["predictions"])
        ]
        assert len(lines) == 5

    def test_curl(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "dog.jpg").write_bytes(PHOTOS[1])
        command = ["curl", "-s", "-X", "POST", "-F", "image=@dog.jpg", server.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert '"success": true' in done.stdout
