"""The page in a real browser, against a real TorchServe."""

import base64
import contextlib
import csv
import io
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Error, Page, Request, Route, expect

from handler.page.i18n import ERROR, percent, texts
from handler.page.negotiation import LANGUAGES
from tests.browser.conftest import Visit, Visitor, photo
from tests.integration.conftest import Guarded, Server
from tests.photos import cutouts, encode

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def truth(server: Server, number: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = server.send(encode(cutouts(number + 1)[number])).json()
    return answer


def wait_until(page: Page, happened: Callable[[], object]) -> None:
    """Half a minute at most. What the browser tells arrives only while it is being called."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def people(label: str) -> str:
    return label.replace("_", " ")


def check_card(visit: Visit, name: str, answer: dict[str, Any]) -> None:
    """A card says what the service says to a program; among several photos it is opened first, and closed again."""
    if opened := visit.tiles.filter(has=visit.page.get_by_alt_text(name, exact=True)).count():
        visit.open(name)
    card = visit.card(name)
    rows = answer["predictions"]
    expect(card.locator(".name")).to_have_text([people(row["label"]) for row in rows])
    expect(card.locator(".id")).to_have_text([row["class_id"] for row in rows])
    expect(card.locator(".share")).to_have_text([shown(row["probability"]) for row in rows])
    heading = card.locator("h2 .name" if answer["recognized"] else "h2")
    expect(heading).to_have_text(people(answer["class_name"]) if answer["recognized"] else "Not recognized")
    if opened:
        visit.close()


def shown(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else "< 0.1%"


def test_a_photo_chosen_is_shown_and_answered(visit: Visitor, server: Server) -> None:
    visited = visit()
    visited.choose(photo())
    check_card(visited, "photo.jpg", truth(server))
    card = visited.card("photo.jpg")
    assert card.locator("img").evaluate("image => image.naturalWidth") == cutouts(1)[0].width
    assert card.locator("img").get_attribute("src").startswith("blob:")  # type: ignore[union-attr]
    assert re.fullmatch(r"\d+\.\d\d s", card.locator(".time").inner_text())
    widths = card.locator("rect").evaluate_all("bars => bars.map((bar) => bar.getAttribute('width'))")
    assert [float(width.rstrip("%")) / 100 for width in widths] == pytest.approx(
        [row["probability"] for row in truth(server)["predictions"]], abs=1e-5
    )


def test_the_json_behind_an_answer_is_there(visit: Visitor, server: Server) -> None:
    visited = visit()
    visited.choose(photo())
    visited.page.locator(".json summary").click()
    shown = json.loads(visited.page.locator("pre").inner_text())
    assert shown["class_id"] == truth(server)["class_id"]
    assert shown["model"] == truth(server)["model"]


def test_the_preview_is_there_before_the_answer(visit: Visitor) -> None:
    held: list[Route] = []
    visited = visit(prepare=lambda page: page.route(lambda url: True, lambda route: hold(route, held)))
    visited.page.set_input_files("#file", photo())
    expect(visited.cards.locator("h2")).to_have_text("Looking…")
    expect(visited.cards.locator("img")).to_have_js_property("naturalWidth", cutouts(1)[0].width)
    wait_until(visited.page, lambda: held)
    held[0].continue_()
    visited.settle()


def hold(route: Route, held: list[Route]) -> None:
    if route.request.method == "POST":
        held.append(route)
    else:
        route.continue_()


def test_several_at_once_are_each_answered_on_a_card_of_their_own_in_their_order(
    visit: Visitor, server: Server
) -> None:
    visited = visit()
    names = [f"photo-{number}.jpg" for number in range(5)]
    visited.choose(*(photo(number, name) for number, name in enumerate(names)))
    assert alternatives(visited) == names
    for number, name in enumerate(names):
        check_card(visited, name, truth(server, number))
        best = truth(server, number)["predictions"][0]
        expect(visited.tile(name)).to_contain_text(people(best["label"]))
        expect(visited.tile(name)).to_contain_text(f"{best['probability']:.1%}")
    # Photos chosen later come before them.
    visited.choose(photo(5, "later.jpg"), photo(6, "last.jpg"))
    assert alternatives(visited) == ["later.jpg", "last.jpg", *names]


def alternatives(visit: Visit) -> list[str]:
    names: list[str] = visit.tiles.locator("img").evaluate_all("all => all.map((image) => image.alt)")
    return names


def test_photos_dropped_by_the_mouse_are_answered(visit: Visitor, server: Server, tmp_path: Path) -> None:
    visited = visit()
    path = tmp_path / "dropped.jpg"
    path.write_bytes(encode(cutouts(1)[0]))
    drop(visited.page, path)
    visited.settle()
    check_card(visited, "dropped.jpg", truth(server))
    expect(visited.page.locator("body")).not_to_have_class(re.compile("over"))


def drop(page: Page, path: Path) -> None:
    """As the mouse does with a file from outside the browser."""
    mouse = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        mouse.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    expect(page.locator("body")).to_have_class(re.compile("over"))
    mouse.send("Input.dispatchDragEvent", {"type": "drop", "x": 600, "y": 400, "data": data})


COPY = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const picture = new Blob([bytes], { type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
}"""


def test_a_picture_pasted_from_the_clipboard_is_answered(visit: Visitor, server: Server) -> None:
    visited = visit(permissions=["clipboard-read", "clipboard-write"])
    picture = encode(cutouts(1)[0], "PNG")
    visited.page.evaluate(COPY, base64.b64encode(picture).decode())
    visited.page.keyboard.press("Control+V")
    visited.settle()
    check_card(visited, "image.png", server.send(picture).json())


NOTES = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a photo"}


def test_a_refusal_is_in_the_pages_language_and_the_services_own_words_are_behind_it(
    visit: Visitor, server: Server
) -> None:
    visited = visit(locale="de-DE")
    visited.choose(NOTES, photo())
    expect(visited.tile("notes.txt")).to_contain_text("Diese Datei ist kein Foto.")
    refused = visited.open("notes.txt")
    expect(refused).to_have_attribute("data-state", "refused")
    expect(refused.locator("h2")).to_have_text("Abgelehnt")
    expect(refused.locator(".message")).to_have_text("Diese Datei ist kein Foto.")
    expect(refused.locator(".reason")).to_be_hidden()
    refused.get_by_text("Details", exact=True).click()
    expect(refused.locator(".reason")).to_have_text(server.send(b"not a photo").json()["error"]["message"])
    expect(refused.locator(".reason")).to_have_attribute("lang", "en")
    assert '"code": "not_an_image"' in (refused.locator("pre").text_content() or "")
    expect(refused.locator("img")).to_be_hidden()
    expect(refused.locator(".curl")).to_be_hidden()


def test_an_error_of_torchserves_own_is_worded_by_its_status(visit: Visitor, server: Server) -> None:
    full = {"code": 503, "type": "ServiceUnavailableException", "message": "Model has no worker"}
    visited = visit(prepare=lambda page: page.route(server.url, lambda route: answer(route, 503, full)))
    visited.choose(photo())
    expect(visited.cards.locator("h2")).to_have_text("No answer")
    expect(visited.cards.locator(".message")).to_have_text("The service is busy. Try again in a moment.")
    visited.page.get_by_text("Details", exact=True).click()
    expect(visited.cards.locator(".reason")).to_have_text("Model has no worker")
    visited.complaints.clear()  # the browser's own, of the 503


def answer(route: Route, status: int, content: object) -> None:
    """This to every photo, and the page itself to the browser."""
    if route.request.method == "POST":
        route.fulfill(status=status, json=content)
    else:
        route.continue_()


def test_what_was_not_recognized_is_nothing_i_know(visit: Visitor, server: Server) -> None:
    grey = encode(Image.new("RGB", (300, 300), "grey"))
    visited = visit(prepare=lambda page: ask_for_certainty(page, server.url))
    visited.choose({"name": "grey.jpg", "mimeType": "image/jpeg", "buffer": grey})
    expect(visited.card("grey.jpg").locator("h2")).to_have_text("Not recognized")
    expect(visited.card("grey.jpg").locator(".name")).to_have_count(5)


def ask_for_certainty(page: Page, url: str) -> None:
    """The same request, with a threshold that nothing reaches."""

    def demand(route: Route) -> None:
        route.continue_(headers={**route.request.headers, "x-min-probability": "1"})

    page.route(url, lambda route: demand(route) if route.request.method == "POST" else route.continue_())


HTML = '<img src=x onerror="document.title=1"><script>document.title=2</script>.jpg'


def test_a_file_name_that_is_html_is_a_file_name(visit: Visitor) -> None:
    visited = visit()
    visited.choose(photo(0, HTML), {"name": HTML + "2", "mimeType": "text/html", "buffer": HTML.encode()})
    assert alternatives(visited) == [HTML, HTML + "2"]
    visited.open(HTML)
    expect(visited.page.locator(".file")).to_have_text(HTML)
    assert visited.page.locator("img").count() == 3
    assert visited.page.title() == "What is in this photo?"


def test_photos_are_sent_as_they_are(visit: Visitor, server: Server) -> None:
    large = encode(cutouts(1)[0].resize((4000, 3000)), quality=95)
    visited = visit()
    visited.choose({"name": "large.jpg", "mimeType": "image/jpeg", "buffer": large})
    check_card(visited, "large.jpg", server.send(large).json())
    expect(visited.card("large.jpg").locator(".note")).to_be_hidden()
    (post,) = visited.posts()
    assert post.all_headers()["content-length"] == str(len(large))


def test_a_photo_too_large_to_be_sent_is_scaled_down_and_says_so(visit: Visitor, tmp_path: Path) -> None:
    cutouts(1)[0].resize((2100, 2000)).save(tmp_path / "large.bmp")
    visited = visit()
    visited.choose(tmp_path / "large.bmp")
    card = visited.card("large.bmp")
    expect(card.locator(".note")).to_contain_text("Larger than 10 MiB, so it was scaled down")
    expect(card.locator(".class")).to_have_count(5)
    (post,) = visited.posts()
    assert int(post.all_headers()["content-length"]) < 10 * 2**20


def test_a_file_too_large_that_is_no_picture_is_told_in_the_pages_own_words(visit: Visitor, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(bytes(10 * 2**20 + 1))
    visited = visit()
    visited.choose(tmp_path / "video.mp4")
    expect(visited.card("video.mp4").locator(".message")).to_contain_text("larger than the 10 MiB that can be sent")
    assert visited.posts() == []


def test_a_photo_that_the_browser_cannot_show_is_answered_all_the_same(visit: Visitor, server: Server) -> None:
    scan = encode(cutouts(1)[0], "TIFF")
    visited = visit()
    visited.choose({"name": "scan.tif", "mimeType": "image/tiff", "buffer": scan})
    check_card(visited, "scan.tif", server.send(scan).json())
    expect(visited.card("scan.tif").locator("img")).to_be_hidden()


def test_a_folder_cannot_be_read(visit: Visitor, tmp_path: Path) -> None:
    visited = visit()
    drop(visited.page, tmp_path)
    visited.settle()
    expect(visited.cards.locator(".message")).to_have_text("This file cannot be read.")
    visited.complaints.clear()  # the browser's own, of the folder


def test_a_service_that_is_gone_is_told_and_can_be_tried_again(visit: Visitor, server: Server) -> None:
    visited = visit(prepare=lambda page: page.route(server.url, lambda route: gone(route)))
    visited.choose(photo())
    expect(visited.cards.locator("h2")).to_have_text("No answer")
    expect(visited.cards.locator(".message")).to_contain_text("Is it still running?")
    visited.page.unroute(server.url)
    visited.page.get_by_role("button", name="Try again").click()
    visited.settle()
    check_card(visited, "photo.jpg", truth(server))
    visited.complaints.clear()  # the browser's own, of the connection


def gone(route: Route) -> None:
    if route.request.method == "POST":
        route.abort("connectionrefused")
    else:
        route.continue_()


@pytest.mark.parametrize("name", ["it's a [cat] $HOME {1,2}.jpg", "-x.jpg", "plain.jpg"])
def test_the_curl_command_copied_asks_the_same(visit: Visitor, server: Server, tmp_path: Path, name: str) -> None:
    visited = visit(permissions=["clipboard-read", "clipboard-write"])
    visited.choose(photo(0, name))
    visited.page.get_by_role("button", name="Copy as curl").click()
    expect(visited.page.get_by_role("status")).to_have_text("Copied")
    command = visited.page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(command)[-1] == server.url
    (tmp_path / name).write_bytes(encode(cutouts(1)[0]))
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert json.loads(done.stdout)["class_id"] == truth(server)["class_id"]


def with_token(guarded: Guarded) -> Callable[[Page], None]:
    """Every request carries the token, as behind a proxy that adds it."""
    return lambda page: page.set_extra_http_headers({"Authorization": f"Bearer {guarded.keys['inference']}"})


def test_where_there_is_no_clipboard_the_command_is_shown(visit: Visitor, server: Server) -> None:
    visited = visit(prepare=lambda page: page.add_init_script("delete Navigator.prototype.clipboard"))
    visited.choose(photo())
    visited.page.get_by_role("button", name="Copy as curl").click()
    expect(visited.cards.locator(".note")).to_have_text(f"curl -T 'photo.jpg' '{server.url}'")


def test_untrained_weights_are_told_in_a_banner(visit: Visitor, guarded: Guarded) -> None:
    untrained = visit(guarded.url, prepare=with_token(guarded))
    expect(untrained.page.locator(".banner")).to_contain_text("untrained")
    untrained.choose(photo())
    expect(untrained.page.locator(".banner")).to_be_visible()
    expect(visit().page.locator(".banner")).to_have_count(0)


class TestToken:
    @pytest.fixture
    def visited(self, visit: Visitor, guarded: Guarded) -> Visit:
        """Only the page itself comes with a token: TorchServe would not let a browser have it otherwise."""

        def admit(route: Route) -> None:
            token = {"authorization": f"Bearer {guarded.keys['inference']}"} if route.request.method == "GET" else {}
            route.continue_(headers=route.request.headers | token)

        return visit(guarded.url, prepare=lambda page: page.route(guarded.url, admit))

    def test_it_is_asked_for_once_and_kept_in_memory_only(self, visited: Visit, guarded: Guarded) -> None:
        page, dialog = visited.page, visited.page.get_by_role("dialog", name="This service asks for a token")
        page.set_input_files("#file", [photo(number, f"{number}.jpg") for number in range(3)])
        expect(dialog).to_be_visible()
        dialog.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This token was not accepted.")
        dialog.get_by_label("Token").fill(guarded.keys["inference"])
        dialog.get_by_role("button", name="Continue").click()
        visited.settle()
        expect(dialog).to_be_hidden()
        expect(page.locator(".tile:is([data-state=recognized], [data-state=unrecognized])")).to_have_count(3)
        assert guarded.keys["inference"] not in page.content()
        stored = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
        assert stored == ["", 0, 0]

    def test_the_curl_command_has_a_place_for_it_but_not_itself(self, visited: Visit, guarded: Guarded) -> None:
        page = visited.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.set_input_files("#file", photo())
        page.get_by_label("Token", exact=True).fill(guarded.keys["inference"])
        page.keyboard.press("Enter")
        visited.settle()
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("status")).to_have_text("Copied")
        command = page.evaluate("navigator.clipboard.readText()")
        assert '-H "Authorization: Bearer $TOKEN"' in command
        assert guarded.keys["inference"] not in command

    def test_without_one_the_services_refusal_is_told(self, visited: Visit) -> None:
        visited.page.set_input_files("#file", photo())
        visited.page.get_by_role("button", name="Cancel").click()
        visited.settle()
        expect(visited.cards.locator(".message")).to_have_text("This service asks for a token")
        expect(visited.cards.locator(".reason")).to_contain_text("Token Authorization failed")
        expect(visited.page.get_by_role("button", name="Try again")).to_be_visible()

    def test_declined_it_is_not_asked_for_again_before_a_person_tries_again(
        self, visited: Visit, guarded: Guarded
    ) -> None:
        page, dialog = visited.page, visited.page.get_by_role("dialog")
        page.set_input_files("#file", [photo(number, f"{number}.jpg") for number in range(6)])
        dialog.get_by_role("button", name="Cancel").click()
        visited.settle()
        expect(dialog).to_be_hidden()
        expect(page.locator("[data-state=unanswered]")).to_have_count(6)
        visited.open("3.jpg").get_by_role("button", name="Try again").click()
        dialog = page.get_by_role("dialog", name="This service asks for a token")
        dialog.get_by_label("Token").fill(guarded.keys["inference"])
        dialog.get_by_role("button", name="Continue").click()
        visited.settle()
        expect(page.locator(".tile[data-state=unanswered]")).to_have_count(5)


def test_the_model_card_is_on_the_page(visit: Visitor, server: Server) -> None:
    visited = visit()
    visited.page.get_by_text("About the model").click()
    about = visited.page.locator(".about")
    card = server.describe()["customizedMetadata"]
    for word in ("shown_photos.pth", card["weights"]["sha256"], "fp32", "1,000", card["exported_with"]["torch"]):
        expect(about).to_contain_text(word)


class TestWithoutJavaScript:
    def test_a_form_post_is_answered_with_a_page(self, visit: Visitor, server: Server) -> None:
        visited = visit(java_script_enabled=False)
        visited.page.set_input_files("#file", photo())
        visited.page.get_by_role("button", name="Recognize").click()
        check_card(visited, "", truth(server))
        image = visited.page.get_by_alt_text("The photo you sent")
        expect(image).to_be_visible()
        assert (image.get_attribute("src") or "").startswith("data:image/jpeg;base64,")
        visited.page.locator(".json summary").click()
        assert json.loads(visited.page.locator("pre").inner_text())["class_id"] == truth(server)["class_id"]
        # And once more, from the page of the answer.
        visited.page.set_input_files("#file", photo(1))
        visited.page.get_by_role("button", name="Recognize").click()
        check_card(visited, "", truth(server, 1))

    def test_at_the_address_of_explanations_the_form_is_classified(self, visit: Visitor, server: Server) -> None:
        visited = visit(server.explaining, java_script_enabled=False)
        visited.page.set_input_files("#file", photo())
        visited.page.get_by_role("button", name="Recognize").click()
        check_card(visited, "", truth(server))
        assert visited.page.url == f"{server.url}#results"

    def test_a_bad_file_is_refused_on_a_page(self, visit: Visitor, server: Server) -> None:
        visited = visit(java_script_enabled=False, locale="ko-KR")
        visited.page.set_input_files("#file", {"name": HTML, "mimeType": "text/html", "buffer": HTML.encode()})
        visited.page.get_by_role("button", name="알아보기").click()
        expect(visited.page.locator(".best")).to_have_text("거절됨")
        expect(visited.page.locator(".message")).to_have_text("이 파일은 사진이 아닙니다.")
        visited.page.get_by_text("자세히", exact=True).click()
        message = server.send(HTML.encode()).json()["error"]["message"]
        expect(visited.page.locator(".reason")).to_have_text(message)

    def test_another_language_is_a_link_away_and_stays(self, visit: Visitor, server: Server) -> None:
        visited = visit(java_script_enabled=False, locale="ko-KR")
        visited.page.locator(".languages summary").click()
        visited.page.get_by_role("link", name="日本語").click()
        expect(visited.page.locator("h1")).to_have_text("この写真には何が写っていますか？")
        assert visited.page.url == f"{server.url}/1.0/ja"
        visited.page.set_input_files("#file", NOTES)
        visited.page.get_by_role("button", name="認識する").click()
        expect(visited.page.locator(".message")).to_have_text("このファイルは写真ではありません。")

    def test_nothing_that_needs_it_is_shown(self, visit: Visitor) -> None:
        visited = visit(java_script_enabled=False)
        expect(visited.page.locator("button:visible, label:visible")).to_have_text(["Choose photos", "Recognize"])

    def test_several_photos_are_answered_on_one_page(self, visit: Visitor) -> None:
        visited = visit(java_script_enabled=False)
        visited.page.set_input_files("#file", [photo(), NOTES])
        visited.page.get_by_role("button", name="Recognize").click()
        expect(visited.page.locator("#results .card")).to_have_count(2)
        expect(visited.page.locator("[data-state=refused] .message")).to_have_text("This file is not a photo.")


# A form with a file in it is not shown to Playwright.
TELL_TARGET = """() => {
  const send = window.fetch;
  window.fetch = (path, options) => {
    const target = options.body instanceof FormData ? options.body.get("target") : "";
    return send(path, { ...options, headers: { ...options.headers, "X-Told": encodeURIComponent(target) } });
  };
}"""


def told(request: Request) -> str:
    """The class that a form asks to explain."""
    return unquote(request.headers["x-told"])


def show_explanations(page: Page) -> None:
    """Answers whatever is asked of /explanations."""
    page.evaluate(TELL_TARGET)
    page.route("**/explanations/**", show_explanation)


def show_explanation(route: Route) -> None:
    """What POST /explanations answers."""
    target = told(route.request)
    picture = base64.b64encode(encode(Image.new("RGB", (40, 30), "red"), "PNG")).decode()
    row = {"class_id": target, "label": "?", "probability": 0.5, "map": [[0] * 7] * 7, "picture": picture}
    route.fulfill(json={"success": True, "explanations": [row]})


class TestExplanation:
    @pytest.fixture
    def visited(self, visit: Visitor) -> Visit:
        visited = visit()
        visited.choose(photo())
        return visited

    def test_a_click_on_a_class_lights_up_where_it_was_seen(self, visited: Visit, server: Server) -> None:
        show_explanations(visited.page)
        first, second, *_ = visited.page.locator("button.class").all()
        image = visited.page.locator("article img")
        first.click()
        expect(first).to_have_attribute("aria-pressed", "true")
        expect(image).to_have_attribute("src", re.compile("^data:image/png;base64,"))
        expect(image).to_have_attribute("alt", f"Where it was seen: {people(truth(server)['class_name'])}")
        second.click()
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(first).to_have_attribute("aria-pressed", "false")
        second.click()
        expect(second).to_have_attribute("aria-pressed", "false")
        expect(image).to_have_attribute("src", re.compile("^blob:"))
        expect(image).to_have_attribute("alt", "photo.jpg")
        first.click()
        expect(first).to_have_attribute("aria-pressed", "true")
        asked = [told(request) for request in visited.posts() if "explanations" in request.url]
        assert asked == [row["class_id"] for row in truth(server)["predictions"][:2]]

    def test_the_picture_is_the_services_own(self, visited: Visit, server: Server) -> None:
        visited.page.locator("button.class").nth(2).click()
        image = visited.page.locator("article img")
        expect(image).to_have_attribute("src", re.compile("^data:image/png;base64,"), timeout=30_000)
        target = truth(server)["predictions"][2]["class_id"]
        address = server.url.replace("/predictions/", "/explanations/")
        headers = {"Content-Type": "image/jpeg", "X-Target": target}
        answer = requests.post(address, data=encode(cutouts(1)[0]), headers=headers, timeout=60).json()
        assert image.get_attribute("src") == f"data:image/png;base64,{answer['explanations'][0]['picture']}"

    def test_a_refusal_is_told_and_the_photo_stays(self, visited: Visit) -> None:
        refusal = {"success": False, "error": {"code": "bad_option", "message": "no such class"}}
        visited.page.route("**/explanations/**", lambda route: route.fulfill(status=400, json=refusal))
        button = visited.page.locator("button.class").first
        button.click()
        expect(visited.page.locator(".explained")).to_have_text(
            "The request has an option that the service does not accept."
        )
        expect(button).to_have_attribute("aria-pressed", "false")
        expect(visited.page.locator("article img")).to_have_attribute("src", re.compile("^blob:"))

    def test_a_failure_that_comes_late_leaves_the_class_chosen_since_alone(self, visited: Visit) -> None:
        held: list[Route] = []
        visited.page.evaluate(TELL_TARGET)
        visited.page.route("**/explanations/**", lambda route: held.append(route))
        first, second, *_ = visited.page.locator("button.class").all()
        first.click()
        wait_until(visited.page, lambda: len(held) == 1)
        second.click()
        wait_until(visited.page, lambda: len(held) == 2)
        held[0].fulfill(status=400, json={"success": False, "error": {"code": "bad_option", "message": "late"}})
        expect(first).not_to_have_attribute("aria-busy", "true")
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(visited.page.locator(".explained")).to_have_text("")
        show_explanation(held[1])
        expect(visited.page.locator("article img")).to_have_attribute("src", re.compile("^data:image/png;base64,"))
        expect(second).to_have_attribute("aria-pressed", "true")

    def test_a_class_chosen_again_before_its_answer_is_asked_for_once(self, visited: Visit) -> None:
        held: list[Route] = []
        visited.page.evaluate(TELL_TARGET)
        visited.page.route("**/explanations/**", lambda route: held.append(route))
        button = visited.page.locator("button.class").first
        for _ in range(3):
            button.click()
        wait_until(visited.page, lambda: held)
        show_explanation(held[0])
        expect(visited.page.locator("article img")).to_have_attribute("src", re.compile("^data:image/png;base64,"))
        expect(button).to_have_attribute("aria-pressed", "true")
        assert len(held) == 1

    def test_a_class_may_have_a_name_in_any_script(self, visit: Visitor, server: Server) -> None:
        row = {"class_id": "고양이", "label": "고양이", "probability": 0.9}
        answer = {
            "success": True,
            "class_id": "고양이",
            "class_name": "고양이",
            "predictions": [row],
            "recognized": True,
        }

        def name(route: Route) -> None:
            if route.request.method == "POST":
                route.fulfill(json=answer)
            else:
                route.continue_()

        visited = visit(prepare=lambda page: page.route(server.url, name))
        visited.choose(photo())
        show_explanations(visited.page)
        visited.page.locator("button.class").click()
        image = visited.page.locator("article img")
        expect(image).to_have_attribute("src", re.compile("^data:image/png;base64,"))
        expect(image).to_have_attribute("alt", "Where it was seen: 고양이")
        assert visited.page.locator(".name").evaluate_all("all => all.map((one) => one.lang)") == [""]

    def test_opened_at_the_address_of_explanations_photos_are_classified(self, visit: Visitor, server: Server) -> None:
        visited = visit(server.explaining)
        visited.choose(photo())
        check_card(visited, "photo.jpg", truth(server))
        visited.page.locator("button.class").first.click()
        image = visited.page.locator("article img")
        expect(image).to_have_attribute("src", re.compile("^data:image/png;base64,"), timeout=30_000)
        assert [request.url for request in visited.posts()] == [server.url, server.explaining]


@pytest.mark.parametrize(
    ("locale", "lang", "title", "button"),
    [
        ("ko-KR", "ko", "이 사진에는 무엇이 있을까요?", "사진 선택"),
        ("zh-CN", "zh-Hans", "这张照片里有什么？", "选择照片"),
        ("zh-TW", "zh-Hant", "這張相片裡有什麼？", "選擇相片"),
        ("fr-FR", "fr", "Qu’y a-t-il sur cette photo ?", "Choisir des photos"),
        ("it-IT", "en", "What is in this photo?", "Choose photos"),
    ],
)
def test_the_page_speaks_the_visitors_language(
    visit: Visitor, server: Server, locale: str, lang: str, title: str, button: str
) -> None:
    visited = visit(locale=locale)
    assert visited.page.locator("html").get_attribute("lang") == lang
    expect(visited.page.locator("h1")).to_have_text(title)
    expect(visited.page.locator(".choose")).to_have_text(button)
    visited.choose(photo())
    expect(visited.page.locator(".name").first).to_have_text(people(truth(server)["class_name"]))
    expect(visited.page.locator(".name").first).to_have_attribute("lang", "en")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_alone_does_everything(visit: Visitor, tmp_path: Path, key: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(cutouts(1)[0]))
    visited = visit()
    visited.page.on("filechooser", lambda _: None)  # Playwright must know of it before the key is pressed
    show_explanations(visited.page)
    keyboard = visited.page.keyboard
    keyboard.press("Tab")
    reach(visited.page, "file")
    with visited.page.expect_file_chooser() as chooser:
        keyboard.press(key)
    chooser.value.set_files(path)
    visited.settle()
    assert focused(visited.page) == "file"
    reach(visited.page, "class")
    keyboard.press(key)
    expect(visited.page.locator(".class[aria-pressed=true]")).to_have_count(1)
    reach(visited.page, "tool curl scripted")
    reach(visited.page, "tool remove scripted")
    keyboard.press("Tab")
    keyboard.press(key)
    expect(visited.page.locator("pre")).to_be_visible()
    outline = visited.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def focused(page: Page) -> str:
    name: str = page.evaluate("document.activeElement.id || document.activeElement.className")
    return name


def reach(page: Page, name: str) -> None:
    for _ in range(20):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never reaches {name}")


def test_answers_and_refusals_are_read_out(visit: Visitor, server: Server) -> None:
    visited = visit()
    status = visited.page.get_by_role("status")
    visited.choose(photo())
    answer = truth(server)
    heard = f"{people(answer['class_name'])}, {answer['predictions'][0]['probability']:.1%}"
    expect(status).to_have_text(f"photo.jpg: {heard if answer['recognized'] else 'Not recognized'}")
    visited.choose({"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""})
    expect(status).to_contain_text("empty.jpg: ")


def test_of_several_at_once_it_is_read_out_how_many_are_answered(visit: Visitor) -> None:
    visited = visit()
    status = visited.page.get_by_role("status")
    for _ in range(2):
        visited.choose(*(photo(number, f"{number}.jpg") for number in range(3)), NOTES)
        expect(status).to_contain_text("4 of 4 photos, ")
        expect(status).to_contain_text(re.compile(r"Refused [12]$"))
    visited.choose(photo())
    expect(status).to_contain_text("photo.jpg: ")
    expect(status).not_to_contain_text("photos")


def check_accessible(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(visit: Visitor, guarded: Guarded, scheme: str, size: dict[str, Any]) -> None:
    # Colours in transition are no colours to judge.
    profile = {"color_scheme": scheme, "reduced_motion": "reduce", **size}
    visited = visit(guarded.url, prepare=with_token(guarded), **profile)
    check_accessible(visited.page)
    show_explanations(visited.page)
    visited.choose(photo())
    visited.page.locator("button.class").first.click()
    expect(visited.page.locator(".legend")).to_be_visible()
    for summary in visited.page.locator("summary:visible").all():
        summary.click()
    check_accessible(visited.page)
    visited.choose(NOTES)
    check_accessible(visited.page)
    visited.open("notes.txt").get_by_text("Details").click()
    check_accessible(visited.page)
    visited.page.evaluate("document.getElementById('token').showModal()")
    check_accessible(visited.page)


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_axe_finds_nothing_in_other_languages(visit: Visitor, server: Server, language: str) -> None:
    visited = visit(f"{server.url}/1.0/{language}", reduced_motion="reduce")
    visited.choose(photo(), NOTES)
    visited.open("notes.txt")
    visited.page.locator(".json summary").click()
    check_accessible(visited.page)


def test_axe_finds_nothing_on_a_page_that_was_posted(visit: Visitor, server: Server) -> None:
    posted = server.post(files={"file": encode(cutouts(1)[0])}, headers={"Accept": "text/html"})
    visited = visit(
        prepare=lambda page: page.route(server.url, lambda route: route.fulfill(body=posted.content)),
        reduced_motion="reduce",
    )
    check_accessible(visited.page)


def test_with_reduced_motion_nothing_moves(visit: Visitor) -> None:
    visited = visit(reduced_motion="reduce")
    visited.choose(photo())
    moving = "document.getAnimations().length"
    assert visited.page.evaluate(moving) == 0


class TestSeveral:
    """Several photos: a tile each, whose card opens in a dialog."""

    def test_a_thumbnail_is_small_and_square(self, visit: Visitor) -> None:
        visited = visit()
        large = {**photo(), "name": "large.jpg", "buffer": encode(cutouts(1)[0].resize((2000, 1500)))}
        visited.choose(photo(0, "0.jpg"), large)
        image = visited.tile("large.jpg").locator("img")
        expect(image).to_have_attribute("src", re.compile("^blob:"))
        expect(image).to_have_js_property("naturalWidth", 320)
        expect(image).to_have_js_property("naturalHeight", 320)

    def test_one_card_leads_to_the_next(self, visit: Visitor) -> None:
        visited = visit()
        visited.choose(*(photo(number, f"{number}.jpg") for number in range(3)))
        visited.open("1.jpg")
        dialog, shown = visited.page.get_by_role("dialog"), visited.page.locator(".file")
        expect(dialog).to_contain_text("2 of 3")
        dialog.get_by_role("button", name="Next").click()
        expect(shown).to_have_text("2.jpg")
        expect(dialog.get_by_role("button", name="Next")).to_be_disabled()
        visited.page.keyboard.press("ArrowLeft")
        visited.page.keyboard.press("ArrowLeft")
        expect(shown).to_have_text("0.jpg")
        expect(dialog).to_contain_text("1 of 3")
        dialog.get_by_role("button", name="Close").click()
        assert focused_photo(visited) == "0.jpg"

    def test_filters_count_and_show(self, visit: Visitor, server: Server) -> None:
        visited = visit(prepare=lambda page: page.route(server.url, answer_by_content))
        visited.choose(*SAMPLES)
        filters = visited.page.get_by_role("group", name="Show").get_by_role("button")
        expect(filters).to_have_text(
            [*("All 4", "Recognized 1", "Not recognized 1", "Refused 1", "No answer 1")], use_inner_text=True
        )
        for number, name in enumerate(("known.jpg", "unknown.jpg", "notes.txt", "busy.jpg"), start=1):
            filters.nth(number).click()
            expect(filters.nth(number)).to_have_attribute("aria-pressed", "true")
            assert shown_photos(visited) == [name]
        filters.nth(1).click()
        visited.choose(NOTES)
        assert len(shown_photos(visited)) == 5  # whatever the filter was, new photos are shown
        visited.tiles.first.get_by_role("button", name="Remove").click()
        filters.nth(4).click()
        visited.tile("busy.jpg").get_by_role("button", name="Remove").click()
        # What is left of the filter is nothing, so all are shown again.
        assert shown_photos(visited) == ["known.jpg", "unknown.jpg", "notes.txt"]
        visited.complaints.clear()  # the browser's own, of the 503

    def test_removed_photos_are_gone_and_one_that_is_left_is_a_card(self, visit: Visitor) -> None:
        visited = visit()
        visited.choose(*(photo(number, f"{number}.jpg") for number in range(4)))
        visited.tile("1.jpg").get_by_role("button", name="Remove").click()
        assert alternatives(visited) == ["0.jpg", "2.jpg", "3.jpg"]
        assert focused_photo(visited) == "2.jpg"
        visited.open("2.jpg").get_by_role("button", name="Remove").click()
        expect(visited.page.locator(".file")).to_have_text("3.jpg")
        visited.close()
        assert alternatives(visited) == ["0.jpg", "3.jpg"]
        visited.tile("3.jpg").get_by_role("button", name="Remove").click()
        expect(visited.page.locator("#cards .file")).to_have_text("0.jpg")
        expect(visited.page.locator("#overview")).to_be_hidden()
        visited.choose(photo(5, "5.jpg"))
        assert alternatives(visited) == ["5.jpg", "0.jpg"]
        visited.page.get_by_role("button", name="Remove all").click()
        expect(visited.page.locator(".tile, article")).to_have_count(0)
        assert focused(visited.page) == "file"
        expect(visited.page.locator("body")).not_to_have_class(re.compile("answered"))

    def test_canceled_photos_are_not_sent_and_can_be_tried_again(self, visit: Visitor) -> None:
        held: list[Route] = []
        visited = visit(prepare=lambda page: page.route(lambda url: True, lambda route: hold(route, held)))
        visited.page.set_input_files("#file", [photo(number, f"{number}.jpg") for number in range(5)])
        wait_until(visited.page, lambda: len(held) == 2)
        visited.page.wait_for_timeout(200)
        assert len(held) == 2  # the others wait for these
        held.pop(0).continue_()
        expect(visited.page.locator("#progress")).to_contain_text("1 of 5 photos")
        visited.page.get_by_role("button", name="Cancel").click()
        expect(visited.page.locator(".tile[data-state=unanswered]")).to_have_count(4)
        expect(visited.tile("4.jpg")).to_contain_text("Canceled before there was an answer.")
        expect(visited.page.locator("#progress")).to_be_hidden()
        sent = len(visited.posts())
        visited.page.unroute_all()
        visited.page.get_by_role("button", name="Try again").click()
        visited.settle()
        expect(visited.page.locator("[data-state=unanswered]")).to_have_count(0)
        assert len(visited.posts()) == sent + 4
        visited.complaints.clear()  # the browser's own, of the canceled requests

    def test_the_answers_can_be_taken_along(self, visit: Visitor, server: Server, tmp_path: Path) -> None:
        visited = visit(prepare=lambda page: page.route(server.url, answer_by_content))
        visited.choose(*SAMPLES[:3])
        table = saved(visited.page, "Download CSV", tmp_path)
        assert table.startswith(b"\xef\xbb\xbf")
        rows = list(csv.reader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True))
        assert rows == [
            ["file", "result", "class_id", "class_name", "probability", "error_code", "error_message"],
            ["known.jpg", "recognized", "n1", '\'=HYPERLINK("x,y")', "0.75", "", ""],
            ["unknown.jpg", "unrecognized", "n1", '\'=HYPERLINK("x,y")', "0.05", "", ""],
            ["notes.txt", "refused", "", "", "", "not_an_image", "not a photo"],
        ]
        assert table.count(b"\r\n") == table.count(b"\n") == 4
        document = json.loads(saved(visited.page, "Download JSON", tmp_path))
        assert document["success"] is True
        assert [result["name"] for result in document["results"]] == ["known.jpg", "unknown.jpg", "notes.txt"]
        assert document["results"][0] == {"name": "known.jpg", **prediction(0.75)}
        assert document["results"][2] == {"name": "notes.txt", **REFUSAL}

    def test_no_cell_is_a_formula(self, visit: Visitor) -> None:
        names = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", " =1", "＝1", "\ufeff=1"]
        cells = visit().page.evaluate("(names) => names.map((name) => toCell(name))", names)
        assert cells == [f'"\'{name}"' for name in names]


FORMULA = '=HYPERLINK("x,y")'
REFUSAL = {"success": False, "error": {"code": "not_an_image", "message": "not a photo"}}
SAMPLES = [photo(0, "known.jpg"), {**photo(1, "unknown.jpg"), "buffer": b"unknown"}, NOTES]
SAMPLES += [{**NOTES, "name": "busy.jpg", "buffer": b"busy"}]


def prediction(probability: float) -> dict[str, Any]:
    rows = [{"class_id": "n1", "label": FORMULA, "probability": probability}]
    best = {"class_id": "n1", "class_name": FORMULA}
    return {"success": True, **best, "predictions": rows, "recognized": probability > 0.2}


def answer_by_content(route: Route) -> None:
    content = route.request.post_data_buffer or b""
    if content == b"busy":
        answer(route, 503, {"code": 503, "message": "queue"})
    elif content == NOTES["buffer"]:
        answer(route, 415, REFUSAL)
    else:
        answer(route, 200, prediction(0.05 if content == b"unknown" else 0.75))


def shown_photos(visit: Visit) -> list[str]:
    names: list[str] = visit.page.evaluate(
        "[...document.querySelectorAll('.tile:not([hidden]) img')].map((i) => i.alt)"
    )
    return names


def focused_photo(visit: Visit) -> str:
    name: str = visit.page.evaluate("document.activeElement.closest('.tile').querySelector('img').alt")
    return name


def saved(page: Page, button: str, folder: Path) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    download.value.save_as(folder / "saved")
    return (folder / "saved").read_bytes()


def test_numbers_are_written_as_the_browser_writes_them(visit: Visitor) -> None:
    page = visit().page
    form = "([tag, share]) => share.toLocaleString(tag, {style: 'percent', minimumFractionDigits: 1})"
    for language in LANGUAGES:
        assert percent(0.9321, texts(language)) == page.evaluate(form, [language, 0.932])


def test_a_language_can_be_chosen_and_does_not_take_the_photos_away(visit: Visitor, server: Server) -> None:
    visited = visit()
    visited.page.locator(".languages summary").click()
    visited.page.get_by_role("link", name="Deutsch").click()
    expect(visited.page.locator("h1")).to_have_text("Was ist auf diesem Foto?")
    visited.choose(photo())
    expect(visited.page.locator(".share").first).to_contain_text("\u00a0%")
    assert [request.url for request in visited.posts()] == [server.url]
    visited.page.locator(".languages summary").click()
    with visited.page.context.expect_page() as opened:
        visited.page.get_by_role("link", name="English").click()
    expect(opened.value.locator("h1")).to_have_text("What is in this photo?")
    expect(visited.cards).to_have_count(1)


# Shows the page's texts by its own functions, since most of them need a service that fails. Returns what is cut off.
SHOW_TEXTS = """async ([codes, failures, seen]) => {
  const cut = [];
  const page = document.documentElement;
  const selector = "button, a, summary, label, p, h1, h2, dt, dd, figcaption, .legend, .viewer-bar, .ways";
  function look() {
    // A long word is broken where it does not fit, so that is switched off.
    document.body.style.overflowWrap = "normal";
    for (const element of document.querySelectorAll(selector)) {
      const isClipped = element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 1;
      if (element.checkVisibility() && isClipped) cut.push(element.textContent);
    }
    if (page.scrollWidth > page.clientWidth) cut.push(`${page.scrollWidth} pixels: ${document.body.innerText}`);
    document.body.style.overflowWrap = "";
    const labels = [...document.querySelectorAll("[aria-label]")].map((element) => element.ariaLabel);
    seen.push(document.body.innerText, ...labels);
  }
  look();
  const photo = photos.at(-1);
  const show = (changes) => (update(photo, { answer: null, error: null, ...changes }), look());
  const example = { answer: photo.answer, error: null };
  photo.body = new Blob();
  for (const state of ["waiting", "busy"]) show({ state });
  const answer = { error: { message: "an image of 8000 x 9000 pixels" } };
  for (const code of codes) {
    show({ state: "refused", error: new AnswerError(texts[`error_${code}`], { isRefusal: true, answer }) });
  }
  for (const name of failures) {
    const message = fill(texts[name], { limit: texts.limit, status: 500 });
    show({ state: "unanswered", error: new AnswerError(message) });
  }
  add(Array.from({ length: 12 }, (_, i) => new File([], `${i}.jpg`)));
  for (const { canceling } of photos) canceling.abort();
  photos.forEach((other, i) => update(other, { ...example, state: Object.keys(HEADINGS)[i % 6] }));
  for (const button of document.querySelectorAll(".filter b")) button.textContent = "200";
  look();
  update(photo, { ...example, state: "recognized" });
  view(photo);
  document.querySelector(".curl").textContent = texts.copied;
  look();
  photo.card.classList.add("blind");
  seen.push(photo.card.querySelector(".photo").dataset.missing);
  byId("token").showModal();
  document.querySelector(".wrong").textContent = texts.token_rejected;
  look();
  return [cut, seen];
}"""


@pytest.mark.parametrize("width", [320, 360])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_fits_on_a_phone(visit: Visitor, guarded: Guarded, language: str, width: int) -> None:
    words = texts(language)
    codes = [name.removeprefix(ERROR) for name in words if name.startswith(ERROR)]
    failures = ["unreadable_file", "file_too_large", "unreachable", "busy", "http_error", "canceled"]
    profile = PHONE | {"viewport": {"width": width, "height": 640}}
    visited = visit(f"{guarded.url}/1.0/{language}", prepare=with_token(guarded), **profile)
    page = visited.page
    page.locator(".about summary").click()
    page.locator(".languages summary").click()
    seen = [page.locator("body").inner_text()]
    unlikely = {"class_id": "n2", "label": "crane", "probability": 0.0001}
    likely = prediction(0.05)
    content = likely | {"predictions": [*likely["predictions"], unlikely]}
    page.route(guarded.url, lambda route: answer(route, 200, content))
    show_explanations(page)
    visited.choose(photo())
    page.locator("button.class").first.click()
    expect(page.locator(".legend")).to_be_visible()
    cut, seen = page.evaluate(SHOW_TEXTS, [codes, failures, seen])
    assert cut == []
    everything = re.sub(r"\s+", " ", " ".join(seen))
    missing = [name for name, text in words.items() if not all(part in everything for part in parts(text))]
    # Those of int8, of calibrated models, of trained weights, of a form without JavaScript, and of a mouse.
    elsewhere = {
        "same_class",
        "calibration",
        "calibrated_with",
        "unsure",
        "weights_digest",
        "classify",
        "sent_photo",
        "drop_hint",
    }
    assert set(missing) <= elsewhere


def parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\{\w+\}", re.sub(r"\s+", " ", text)) if part.strip()]


ELSEWHERE = "https://example.com/"
ATTACKS = {
    "a request": f"fetch('{ELSEWHERE}')",
    "an image": f"document.body.append(Object.assign(new Image(), {{ src: '{ELSEWHERE}' }}))",
    "a script": "document.body.append(Object.assign(document.createElement('script'), { text: 'document.title = 1' }))",
    "HTML": "document.body.innerHTML = '<b>'",
    "a style": "document.body.setAttribute('style', 'display: none')",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_the_policy_forbids_what_the_page_does_not_need(visit: Visitor, attack: str) -> None:
    visited = visit()
    with contextlib.suppress(Error):
        visited.page.evaluate(attack)
    said = "Content Security Policy|TrustedScript|TrustedHTML"
    wait_until(visited.page, lambda: re.search(said, "\n".join(visited.complaints)))
    assert visited.page.title() == "What is in this photo?"
    assert visited.page.locator("main").is_visible()
    visited.complaints.clear()
    visited.requests.clear()
