"""The page over HTTP: who gets it, and what a form is answered. The browser's side is in tests/browser."""

import html
import json
import re
from typing import Any

import pytest
import requests
from markupsafe import escape

from tests.integration.conftest import Server
from tests.photos import cutouts, encode

PHOTO = encode(cutouts(1)[0])
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
FORM = {"file": ("photo.jpg", PHOTO, "image/jpeg")}


def get(server: Server, **headers: str) -> requests.Response:
    return requests.get(server.url, headers=headers, timeout=60)


def check_page(response: requests.Response, status: int = 200) -> str:
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert response.text.startswith("<!doctype html>")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    return response.text[: response.text.index("<template")]


def behind(page: str) -> Any:
    """The JSON that the page shows."""
    (shown,) = re.findall(r"<pre[^>]*>(.+?)</pre>", page, re.DOTALL)
    return json.loads(html.unescape(shown))


def test_a_browser_that_opens_the_address_gets_the_page(server: Server) -> None:
    response = get(server, Accept=CHROME)
    assert "What is in this photo?" in check_page(response)
    headers = response.headers
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
    assert "no-store" in headers["cache-control"]  # TorchServe's own


def test_it_speaks_the_browsers_language(server: Server) -> None:
    response = get(server, **{"Accept": CHROME, "Accept-Language": "ko-KR,ko;q=0.9,en;q=0.8"})
    assert '<html lang="ko">' in check_page(response)
    assert "사진 선택" in response.text
    assert response.headers["content-language"] == "ko"


def test_a_language_in_the_address_comes_before_the_browsers(server: Server) -> None:
    headers = {"Accept": CHROME, "Accept-Language": "ko"}
    (address,) = {link for link in re.findall(r'href="([^"]+)"', get(server, **headers).text) if link.endswith("/ja")}
    url = f"{server.service.inference}{address}"
    for response in (
        requests.get(url, headers=headers, timeout=60),
        requests.post(url, headers=headers, files=FORM, timeout=60),
    ):
        assert '<html lang="ja">' in check_page(response)
        assert response.headers["content-language"] == "ja"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/plain, */*", "text/*", JAVA])
def test_a_program_never_gets_html(server: Server, accept: str) -> None:
    answers = [
        get(server, Accept=accept),
        server.send(PHOTO, Accept=accept),
        server.post(files=FORM, headers={"Accept": accept}),
        server.post(files={"file": b"text"}, headers={"Accept": accept}),
    ]
    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    assert [answer.json()["success"] for answer in answers] == [False, True, True, False]


def test_what_is_no_form_is_answered_in_json_whatever_accept_says(server: Server) -> None:
    assert server.send(PHOTO, Accept=CHROME).json()["success"] is True
    assert server.post(json={"instances": []}, headers={"Accept": CHROME}).json()["success"] is False


def test_a_form_that_a_browser_posts_is_answered_with_the_photo_and_its_classes(server: Server) -> None:
    page = check_page(server.post(files=FORM, headers={"Accept": CHROME}))
    answer = server.post(files=FORM).json()
    assert behind(page) == answer
    shares = [f"{row['probability']:.1%}" for row in answer["predictions"]]
    assert re.findall(r'class="share">([^<]+)<', page) == shares
    assert re.findall(r'class="id">([^<]+)<', page) == [row["class_id"] for row in answer["predictions"]]
    assert 'src="data:image/jpeg;base64,' in page


def test_options_in_a_form_count_for_the_page_too(server: Server) -> None:
    page = check_page(server.post(files=FORM, data={"top_k": "2", "min_probability": "1"}, headers={"Accept": CHROME}))
    assert len(re.findall(r'class="share">', page)) == 2
    assert "Not recognized" in page


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ({"file": b"text"}, 415, "not_an_image"),
        ({"file": PHOTO[:9000]}, 422, "broken_image"),
        ({"file": ("", b"", "application/octet-stream")}, 400, "no_image"),
        ([("file", PHOTO), ("top_k", (None, "1")), ("top_k", (None, "2"))], 400, "repeated_part"),
    ],
)
def test_a_refusal_is_a_page_with_its_status_and_its_words(server: Server, files: Any, status: int, code: str) -> None:
    page = check_page(server.post(files=files, headers={"Accept": CHROME}), status)
    error = server.post(files=files).json()
    assert error["error"]["code"] == code
    assert behind(page) == error
    assert escape(error["error"]["message"]) in page


def test_several_images_are_a_card_each_and_their_names_are_text(server: Server) -> None:
    name = "<script>alert(1)</script>"
    files = {name: FORM["file"], "notes": ("notes.txt", b"text", "text/plain")}
    page = check_page(server.post(files=files, headers={"Accept": CHROME}))
    assert re.findall('data-state="([a-z]+)"', page)[1:] == ["refused"]
    assert escape(name) in page
    assert name not in page


def test_a_page_full_of_photos_fits_in_an_answer(server: Server) -> None:
    noise = encode(cutouts(1)[0].resize((2000, 2000)), quality=60)
    page = check_page(server.post(files={f"p{i}": noise for i in range(16)}, headers={"Accept": CHROME}))
    assert page.count("data:image/jpeg") == 16


def test_the_page_answers_a_form_at_the_address_of_explanations_too(server: Server) -> None:
    address = server.url.replace("/predictions/", "/explanations/")
    opened = check_page(requests.get(address, headers={"Accept": CHROME}, timeout=60))
    assert 'action="/predictions/densenet#results"' in opened
    page = check_page(requests.post(address, files=FORM, headers={"Accept": CHROME}, timeout=60))
    assert behind(page) == server.post(files=FORM).json()
