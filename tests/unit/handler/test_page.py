"""The page without a browser: who gets it, in which words, and that nothing in it can be anything but text."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from markupsafe import escape
from PIL import Image

from densenet.service.properties import Properties
from export import ROOT
from handler.cropping import MIN_SIDE
from handler.decoder import Decoder
from handler.errors import ErrorCode, RequestError
from handler.page import Page, i18n, negotiation, result_cards
from handler.page.i18n import percent, size
from handler.payload import Uploads
from handler.ranking import Prediction
from handler.reply import Reply
from handler.results import ImageResult
from handler.settings import Settings
from tests.photos import cutouts, encode

FOLDER = ROOT / "handler" / "page"
TEXTS: dict[str, dict[str, str]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in i18n.TRANSLATIONS.glob("*.yaml")
}
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
FORM = "multipart/form-data; boundary=x"
NASTY = "</script><img src=x onerror=alert(1)> \"'&"
CARD: dict[str, Any] = {
    "architecture": "DenseNet-121",
    "weights": {"name": "mine.pth", "sha256": "ab" * 32},
    "precision": "fp32",
    "classes": {"count": 1000},
    "agreement": {"tolerance": 1e-4},
    "exported_with": {"torch": "2.15.0"},
}


def make_page(weights: str = "mine.pth", **card: Any) -> Page:
    model = {"name": "densenet", "version": "1.0", "weights": weights, "precision": "fp32"}
    return Page(CARD | card, model, Settings())


def opened(page: Page, language: str = "en") -> Reply:
    reply = page.negotiate({"accept": CHROME, "accept-language": language})
    assert reply is not None
    return reply


class Reader(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(document.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.inline:
            self.inline[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.elements and (tag := self.elements[-1][0]) in self.inline and self.cdata_elem == tag:
            self.inline[tag][-1] += data


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.4, */*", True),
        ("text/html;level=1", True),
        ("application/json;q=0.5, text/html", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("image/png", False),
        ("not-text/html-at-all", False),
        (JAVA, False),
    ],
)
def test_who_names_html_gets_the_page(accept: str, wanted: bool) -> None:
    assert negotiation.wants_page({"accept": accept}) is wanted
    assert (make_page().negotiate({"accept": accept}) is not None) is wanted


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        ("it-IT,it;q=0.9", "en"),
        ("de-AT, en;q=0.5", "de"),
        ("es-419", "es"),
        ("fr-CA", "fr"),
        ("ja", "ja"),
        ("it, zh-CN;q=0.5, ko;q=0.4", "zh-Hans"),
        ("zh-SG", "zh-Hans"),
        ("zh-Hans-HK", "zh-Hans"),
        ("zh-TW,zh;q=0.9,en-US;q=0.8", "zh-Hant"),
        ("zh-HK", "zh-Hant"),
        ("zh-MO", "zh-Hant"),
        ("zh-Hant", "zh-Hant"),
        ("en;q=0.5, zh-Hant-TW;q=0.8", "zh-Hant"),
        ("ko;q=0, zh;q=0.1", "zh-Hans"),
        ("*, ko", "en"),
        ("KO-kr", "ko"),
        ("korean", "en"),
        (";;q=,ko;q=2", "ko"),
        ("x" * 8000, "en"),
    ],
)
def test_the_language_is_the_best_of_those_asked_for(asked: str, language: str) -> None:
    assert negotiation.language({"accept-language": asked}) == language
    reply = opened(make_page(), asked)
    assert f'<html lang="{language}">'.encode() in reply.body
    assert reply.headers["Content-Language"] == language


def test_a_language_in_the_address_comes_first() -> None:
    asked = {"accept": CHROME, "accept-language": "ko"}
    for address, language in (("de", "de"), ("zh-Hant", "zh-Hant"), ("", "ko"), ("xx", "ko"), ("de/es", "ko")):
        assert negotiation.language(asked | {"url_path": address}) == language


def test_the_page_links_to_itself_in_every_language() -> None:
    page = make_page()
    page = Page(page.card, page.model | {"name": "my model", "version": "2.0"}, page.settings)
    *links, card = [attributes for tag, attributes in Reader(opened(page, "ja").body).elements if tag == "a"]
    assert card["href"] == "/predictions/my%20model/2.0/MODEL_CARD.md"
    assert [link["lang"] for link in links] == list(negotiation.LANGUAGES)
    for link in links:
        assert link["href"] == f"/predictions/my%20model/2.0/{link['lang']}"
        assert link["hreflang"] == link["lang"]
        assert link.get("aria-current") == ("true" if link["lang"] == "ja" else None)


def test_the_gateway_knows_every_language() -> None:
    template = (ROOT / "deploy" / "nginx" / "nginx.conf.template").read_text(encoding="utf-8")
    assert template.count(f"{'|'.join(sorted(negotiation.LANGUAGES))})$") == 2


def test_every_language_has_every_text() -> None:
    assert set(TEXTS) == set(negotiation.LANGUAGES)
    english = TEXTS["en"]
    for language, texts in TEXTS.items():
        assert list(texts) == list(english), language
        for name, text in texts.items():
            assert isinstance(text, str), (language, name)
            assert text, (language, name)
            assert places(text) == places(english[name]), (language, name)


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_every_error_code_has_a_text() -> None:
    named = {name.removeprefix(i18n.ERROR) for name in TEXTS["en"] if name.startswith(i18n.ERROR)}
    assert named == {code.value for code in ErrorCode}


def test_every_text_is_used() -> None:
    templates = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.html"))
    code = "".join(path.read_text(encoding="utf-8") for suffix in ("py", "js") for path in FOLDER.glob(f"*.{suffix}"))
    unused = [
        name
        for name in TEXTS["en"]
        if f"${name}" not in templates and not re.search(rf'texts\.{name}\b|"{name}"', code)
    ]
    assert [name for name in unused if not name.startswith(i18n.ERROR)] == []


@pytest.mark.parametrize("language", negotiation.LANGUAGES)
def test_scripts_get_the_texts_that_they_use_and_no_others(language: str) -> None:
    _, facts, script = [None, *Reader(opened(make_page(), language).body).inline["script"]]
    sent = set(json.loads(facts)["texts"])
    used = set(re.findall(r"\btexts\.(\w+)", script))
    assert {name for name in sent if not name.startswith(i18n.ERROR)} == used
    assert sent - used == {name for name in TEXTS["en"] if name.startswith(i18n.ERROR)}
    body = opened(make_page(), language).body.decode()
    others = [texts["limits"].partition("}")[2] for tag, texts in TEXTS.items() if tag != language]
    assert [text for text in others if text in body] == []


@pytest.mark.parametrize("language", negotiation.LANGUAGES)
def test_the_page_is_one_document_of_less_than_60_kb_that_asks_nobody(language: str) -> None:
    body = opened(make_page("untrained"), language).body
    assert len(body) < 60_000
    reader = Reader(body)
    links = [value for _, attributes in reader.elements for name in ("src", "href") if (value := attributes.get(name))]
    assert [link for link in links if not link.startswith(("data:", "/predictions/densenet/1.0/"))] == []
    assert not re.search(r"@import|\burl\(|fetch\([\"'`]|https?://(?!www\.w3\.org/2000/svg)", body.decode())


def test_the_policy_allows_exactly_the_pages_own_script_and_style() -> None:
    reply = opened(make_page())
    policy = dict(rule.split(" ", 1) for rule in reply.headers["Content-Security-Policy"].split("; "))
    reader = Reader(reply.body)
    (style,), (facts, script) = reader.inline["style"], reader.inline["script"]
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
    assert json.loads(facts)["texts"]["busy"] == TEXTS["en"]["busy"]
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in str(policy)


def test_no_element_has_a_style_or_a_script_of_its_own() -> None:
    reader = Reader(posted(make_page(), encode(cutouts(1)[0]), seen("Egyptian_cat", 0.9)).body)
    names = {name for _, attributes in reader.elements for name in attributes}
    assert [name for name in names if name == "style" or name.startswith("on")] == []


def test_the_script_writes_no_html() -> None:
    script = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|Storage|cookie", script
    )


def test_headers_are_ascii_on_one_line() -> None:
    for name, value in opened(make_page()).headers.items():
        assert f"{name}{value}".isascii()
        assert f"{name}{value}".isprintable()


def test_untrained_weights_have_a_banner_and_others_have_none() -> None:
    assert b'class="banner"' in opened(make_page("untrained")).body
    assert b'class="banner"' not in opened(make_page()).body


def test_the_model_card_is_on_the_page() -> None:
    body = opened(make_page()).body.decode()
    for word in ("mine.pth", "ab" * 32, "fp32", "1,000", "at most 0.0001", "torch 2.15.0", "20.0%"):
        assert f"{word}" in body
    held_out = {"same_top1": 0.97, "images": 100}
    assert "97.0% of 100 photos" in opened(make_page(agreement={"held_out": held_out})).body.decode()


def test_weights_without_a_digest_have_no_line_for_it() -> None:
    page = make_page()
    without = Page(page.card | {"weights": {"name": "untrained"}}, page.model, page.settings)
    assert b"<dt>SHA-256" in opened(page).body
    assert b"<dt>SHA-256" not in opened(without).body


def seen(label: str, probability: float, class_id: str = "n1") -> ImageResult:
    best, other = Prediction(0, class_id, label, probability, 1.0), Prediction(1, "n2", "crane", 0.0001, 0.5)
    return ImageResult((best, other), recognized_by_default=probability >= Settings().min_probability)


def posted(page: Page, content: bytes, outcome: Any, language: str = "en", names: tuple[str, ...] = ("file",)) -> Reply:
    protocol = page.protocol({"accept": CHROME, "accept-language": language, "content-type": FORM})
    assert protocol is not None
    request = protocol.read(Uploads(dict.fromkeys(names, content), {}), Settings())
    return request.answer([outcome] * len(names), page.model)


def test_only_a_browsers_form_is_answered_with_a_page() -> None:
    page = make_page()
    assert page.protocol({"accept": CHROME, "content-type": FORM})
    for headers in (
        {"accept": "*/*", "content-type": FORM},
        {"accept": JAVA, "content-type": FORM},
        {"content-type": FORM},
        {"accept": CHROME, "content-type": "image/jpeg"},
        {"accept": CHROME, "content-type": "application/json"},
        {"accept": CHROME},
    ):
        assert page.protocol(headers) is None


def test_an_answer_names_classes_for_people_with_ids_and_percent() -> None:
    body = posted(make_page(), encode(cutouts(1)[0]), seen("Egyptian_cat", 0.9321, "n02124075")).body.decode()
    answer = body[: body.index("<template")]
    for word in (">Egyptian cat<", ">n02124075<", ">93.2%<", 'width="93.2100%"', 'data-state="recognized"'):
        assert answer.count(word) == 1
    heading, others = answer[answer.index('<h2 class="best"') :].split("</h2>", 1)
    assert ">Egyptian cat<" in heading
    assert ">crane<" in others[others.index("1 more below 0.1%") :]


def test_what_was_not_recognized_is_listed_however_unlikely_it_is() -> None:
    rows = tuple(Prediction(i, f"n{i}", f"class {i}", 0.0005, 1.0) for i in range(3))
    unlikely = ImageResult(rows, recognized_by_default=False)
    answer = posted(make_page(), encode(cutouts(1)[0]), unlikely).body.decode()
    shown, folded = answer[: answer.index("<template")].split('<details class="more">')
    assert (shown.count('class="name"'), folded.count('class="name"')) == (1, 2)
    assert "2 more below 0.1%" in folded


@pytest.mark.parametrize(("language", "share", "seconds"), [("en", "93.2%", "0.00 s"), ("de", "93,2\u00a0%", "0,00 s")])
def test_numbers_are_written_as_the_language_writes_them(language: str, share: str, seconds: str) -> None:
    body = posted(make_page(), encode(cutouts(1)[0]), seen("cat", 0.9321), language).body.decode()
    assert f">{share}<" in body
    assert f">{seconds}<" in body
    thousand = {"en": "1,000", "de": "1.000"}[language]
    assert thousand in body


def test_names_are_said_to_be_english_where_they_can_be() -> None:
    photo = encode(cutouts(1)[0])
    english = posted(make_page(), photo, seen("Egyptian_cat", 0.9)).body.decode()
    assert '<span class="name" lang="en">Egyptian cat</span>' in english
    korean = posted(make_page(), photo, seen("고양이", 0.9)).body.decode()
    assert '<span class="name">고양이</span>' in korean


def test_the_form_goes_to_the_address_of_predictions() -> None:
    page = make_page()
    for headers, action in (({}, "#results"), ({"explain": "True"}, "/predictions/densenet#results")):
        reply = page.negotiate({"accept": CHROME, **headers})
        protocol = page.protocol({"accept": CHROME, "content-type": FORM, **headers})
        assert reply is not None
        assert protocol is not None
        for answer in (reply, protocol.refuse(RequestError(ErrorCode.NOT_AN_IMAGE, "no"))):
            form, *_ = [attributes for tag, attributes in Reader(answer.body).elements if tag == "form"]
            assert form["action"] == action


def test_a_class_without_an_id_of_its_own_shows_none() -> None:
    assert posted(make_page(), encode(cutouts(1)[0]), seen("cat", 0.9, "cat")).body.count(b'class="id">cat<') == 0


@pytest.mark.parametrize("language", negotiation.LANGUAGES)
def test_what_is_not_recognized_says_so(language: str) -> None:
    body = posted(make_page(), encode(cutouts(1)[0]), seen("cat", 0.19), language).body.decode()
    assert f'<h2 class="best">{TEXTS[language]["not_recognized"]}</h2>' in body
    assert 'data-state="unrecognized"' in body


@pytest.mark.parametrize("language", negotiation.LANGUAGES)
def test_whatever_a_client_or_a_checkpoint_names_is_escaped(language: str) -> None:
    page = make_page(NASTY, architecture=NASTY, exported_with={NASTY: NASTY})
    page = Page(page.card, dict.fromkeys(page.model, NASTY), page.settings)
    protocol = page.protocol({"accept": CHROME, "accept-language": language, "content-type": FORM})
    assert protocol is not None
    bodies = [
        opened(page, language).body,
        posted(page, encode(cutouts(1)[0]), seen(NASTY, 0.9, NASTY), language, names=(NASTY, "b")).body,
        posted(page, b"", RequestError(ErrorCode.NOT_AN_IMAGE, NASTY), language, names=(NASTY, "b")).body,
        protocol.refuse(RequestError(ErrorCode.NOT_AN_IMAGE, NASTY)).body,
    ]
    for body in bodies:
        assert b"<img src=x" not in body
        elements = [tag for tag, attributes in Reader(body).elements if "onerror" in attributes]
        assert elements == []
        assert len(Reader(body).inline["script"]) == 2
    assert b"&lt;img src=x onerror=alert(1)&gt;" in bodies[3]


@pytest.mark.parametrize("code", ErrorCode)
@pytest.mark.parametrize("language", negotiation.LANGUAGES)
def test_a_refusal_is_worded_in_the_pages_language_and_has_the_services_words_behind_it(
    code: ErrorCode, language: str
) -> None:
    protocol = make_page().protocol({"accept": CHROME, "accept-language": language, "content-type": FORM})
    assert protocol is not None
    reply = protocol.refuse(RequestError(code, "its own words"))
    assert (reply.status, reply.content_type) == (code.status, "text/html; charset=utf-8")
    body = reply.body.decode()
    before, behind = body[: body.index("<template")].split('<details class="json">')
    assert f'<p class="message">{escape(TEXTS[language][f"error_{code}"])}</p>' in before
    assert '<p class="reason" lang="en">its own words</p>' in behind
    assert code.value in behind


def test_the_only_images_failure_is_the_whole_requests() -> None:
    with pytest.raises(RequestError, match="broken"):
        posted(make_page(), b"", RequestError(ErrorCode.BROKEN_IMAGE, "broken"))


def test_a_photo_is_shown_back_upright_small_and_without_its_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    photo = encode(cutouts(1)[0].resize((3000, 2000)), exif=exif)
    decoder = Decoder(memory=1_500_000_000)
    decoded = decoder.decode(photo, seconds=5, max_pixels=64_000_000, min_side=MIN_SIDE, shown=result_cards.SHOWN)
    decoder.close()
    assert decoded.shown is not None
    address = result_cards.to_data_url(decoded.shown)
    assert address.startswith("data:image/jpeg;base64,")
    content = base64.b64decode(address.partition(",")[2])
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.size == (640, 960)
        assert not shown.getexif()
    assert b"where I live" not in content
    assert len(content) < 300_000


def test_the_limit_that_people_are_told_is_torchserves() -> None:
    limit = int(Properties.read(ROOT / "config.properties").values["max_request_size"])
    assert Settings().max_request_bytes == limit
    assert "10 MiB" in opened(make_page()).body.decode()


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0%"), (0.93214, "93.2%"), (0.001, "0.1%"), (0.0009, "< 0.1%"), (0.0, "0.0%")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share, TEXTS["en"]) == text


def test_sizes_are_written_short() -> None:
    assert [size(count, TEXTS["en"]) for count in (10_485_760, 6_553_500)] == ["10 MiB", "6.25 MiB"]
    assert size(6_553_500, TEXTS["fr"]) == "6,25 MiB"
