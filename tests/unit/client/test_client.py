"""The client against servers that misbehave, are not the service, or not there."""

import base64
import io
import json
import pickle
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import densenet_client as package
import pytest
import stamina
from densenet_client import (
    Answer,
    Client,
    Model,
    NotTheService,
    Prediction,
    RequestRejected,
    ServiceError,
    ServiceUnavailable,
    Unauthorized,
    classify,
)
from densenet_client.client import Result
from densenet_client.errors import Unavailable
from densenet_client.images import prepare
from PIL import Image, ImageSequence
from stamina.instrumentation import RetryDetails

from export import ROOT
from tests.photos import cutouts, encode

NOBODY = "http://127.0.0.1:9/"
INVALID_KEY = json.dumps(
    {
        "code": 400,
        "type": "InvalidKeyException",
        "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
    }
)
# What is not the service: a page, other servers' JSON, a redirect, a TorchServe without this model, and the gateway's
# message that nothing is at this address.
STRANGERS = (
    (200, "<html>Welcome</html>"),
    (200, '{"tabby": 0.5}'),
    (200, "[]"),
    (400, '{"error": {"code": 400, "message": "Bad Request", "status": "INVALID_ARGUMENT"}}'),
    (301, ""),
    (404, '{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: other"}'),
    (404, '{"success": false, "error": {"code": "not_found", "message": "this address does not exist"}}'),
    (405, ""),
    (501, "<html>Unsupported method</html>"),
)
NO_WORKER = '{"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}'


def answer(label: str = "cat") -> str:
    """The service's answer, with one class of that name."""
    return json.dumps(
        {
            "success": True,
            "predictions": [
                {"class_id": "n1", "label": label, "probability": 0.75},
                {"class_id": "n2", "label": "rest", "probability": 0.25},
            ],
            "recognized": True,
            "model": {"name": "densenet", "version": "1.0", "weights": "untrained", "precision": "fp32"},
        }
    )


@dataclass(frozen=True)
class Reply:
    """What a fake server answers; announced: bytes that Content-Length promises."""

    status: int = 200
    body: str = field(default_factory=answer)
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None


Script = Callable[["Asked"], Reply | None]
FINE = Reply()
BUSY = Reply(503, NO_WORKER)


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    number: int
    body: bytes
    headers: dict[str, str]
    path: str = ""


class Fake(ThreadingHTTPServer):
    """Answers as the script says; None closes the connection without a word."""

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.script = script
        self.asked: list[Asked] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/predictions/densenet"


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: Fake

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            asked = Asked(len(self.server.asked), body, dict(self.headers), self.path)
            self.server.asked.append(asked)
        reply = self.server.script(asked)
        if reply is None:
            self.close_connection = True
            return
        content = reply.body.encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(reply.announced or len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = reply.announced is not None

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(script: Script) -> Iterator[Fake]:
    with Fake(script) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def scripted(*replies: Reply | None) -> Script:
    """One reply after the other, the last one for ever."""
    return lambda asked: replies[min(asked.number, len(replies) - 1)]


def labelling(asked: Asked) -> Reply:
    """Names the class after the image, so that answers can be told apart."""
    return Reply(body=answer(asked.body.decode()))


class Counting:
    """Answers as labelling() does, once so many requests are there together; most: as many as there ever were."""

    def __init__(self, together: int) -> None:
        self._together = threading.Barrier(together)
        self._inside: list[int] = []
        self._counts: list[int] = []

    @property
    def most(self) -> int:
        return max(self._counts)

    def __call__(self, asked: Asked) -> Reply:
        self._inside.append(asked.number)
        self._counts.append(len(self._inside))
        self._together.wait(20)  # breaks where fewer arrive
        self._inside.pop()
        return labelling(asked)


@contextmanager
def client_of(script: Script, **options: Any) -> Iterator[tuple[Client, Fake]]:
    with serving(script) as server, Client(server.url, **options) as client:
        yield client, server


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("classify")]


class TestAnswer:
    def test_an_answer_is_the_sequence_of_its_predictions(self) -> None:
        with serving(scripted(FINE)) as server:
            found = classify(b"photo", url=server.url)
        best, second = found
        assert found == Answer(
            (Prediction("n1", "cat", 0.75), Prediction("n2", "rest", 0.25)),
            recognized=True,
            model=Model("densenet", "1.0", "untrained", "fp32"),
        )
        assert (len(found), found[0].label, found[-1], found[:1]) == (2, "cat", second, (best,))
        assert best in found
        assert list(reversed(found)) == [second, best]

    @pytest.mark.parametrize("status", [200, 400, 502])
    @pytest.mark.parametrize(
        "body", ["", "<html>", "[]", "{}", '{"predictions": 7}', '{"predictions": [{}]}', "null", '{"error": "x"}']
    )
    def test_one_that_is_not_the_services_is_told(self, body: str, status: int) -> None:
        with (
            serving(scripted(Reply(status, body))) as server,
            pytest.raises(ServiceError, match=f"answered {status} with an unexpected response") as told,
        ):
            classify(b"photo", url=server.url)
        assert server.url in str(told.value)

    def test_of_a_long_one_the_beginning_is_shown_on_one_line(self) -> None:
        page = "<html>\n" + "x" * 10_000
        with serving(scripted(Reply(404, page))) as server, pytest.raises(ServiceError) as told:
            classify(b"photo", url=server.url)
        assert str(told.value).endswith(f"<html> {'x' * 193}")

    def test_a_redirect_is_not_followed(self) -> None:
        with serving(scripted(Reply(301, "", {"Location": NOBODY}))) as server:
            with pytest.raises(
                NotTheService, match=f"answered 301 with an unexpected response: a redirect to {NOBODY}"
            ):
                classify(b"photo", url=server.url, token="secret")
            assert len(server.asked) == 1


EXPLANATION = {
    "class_id": "n1",
    "label": "cat",
    "probability": 0.75,
    "logit": 3.0,
    "bias": 0.5,
    "map": [[float(row * 7 + column) for column in range(7)] for row in range(7)],
    "overlay": base64.b64encode(b"crop").decode(),
}


class TestExplanations:
    def test_they_are_read_with_their_pictures(self) -> None:
        document = json.loads(answer()) | {"explanations": [EXPLANATION], "crop": [0.1, 0.0, 0.9, 1.0]}
        with client_of(scripted(Reply(body=json.dumps(document)))) as (client, _):
            found = client.explain(b"photo")
        (only,) = found.explanations
        assert (only.class_id, only.label, only.probability, only.logit, only.bias) == ("n1", "cat", 0.75, 3.0, 0.5)
        assert only.map == tuple(tuple(float(row * 7 + column) for column in range(7)) for row in range(7))
        assert (only.overlay, only.picture) == (b"crop", None)
        assert found.crop == (0.1, 0.0, 0.9, 1.0)
        assert hash(found)

    @pytest.mark.parametrize("broken", [7, [{}], [EXPLANATION | {"map": 7}], [EXPLANATION | {"overlay": 7}]])
    def test_what_is_no_explanation_is_told(self, broken: object) -> None:
        document = json.dumps(json.loads(answer()) | {"explanations": broken})
        with client_of(scripted(Reply(body=document))) as (client, _), pytest.raises(ServiceError):
            client.explain(b"photo")

    def test_options_are_sent_to_the_address_of_explanations(self) -> None:
        with client_of(scripted(FINE)) as (client, server):
            client.explain(b"photo")
            client.explain(b"photo", target="Egyptian cat", overlays="none", top_k=3, min_probability=0.5)
            client.explain(b"photo", target=7)
            client.explain(b"photo", target=["n02124075", 7])
            client.classify(b"photo")
        names = ("X-Target", "X-Overlays", "X-Top-K", "X-Min-Probability")
        assert [[asked.headers.get(name) for name in names] for asked in server.asked] == [
            [None, None, None, None],
            ["Egyptian cat", "none", "3", "0.5"],
            ["7", None, None, None],
            ["n02124075,7", None, None, None],
            [None, None, None, None],
        ]
        assert [asked.path for asked in server.asked] == ["/explanations/densenet"] * 4 + ["/predictions/densenet"]

    @pytest.mark.parametrize("target", ["Bär", "고양이", "a\r\nX-Top-K: 3", ["tench", "\0"], "\N{NO-BREAK SPACE}"])
    def test_a_target_that_no_header_can_hold_goes_into_a_form(self, target: Any) -> None:
        with client_of(scripted(FINE)) as (client, server):
            client.explain(b"photo", target=target, overlays="none", top_k=7)
        (asked,) = server.asked
        text = target if isinstance(target, str) else ",".join(target)
        assert f'form-data; name="target"\r\n\r\n{text}\r\n'.encode() in asked.body
        assert b"Content-Type: application/octet-stream\r\n\r\nphoto\r\n" in asked.body
        assert asked.headers["Content-Type"].startswith("multipart/form-data; boundary=")
        assert "X-Target" not in asked.headers
        assert (asked.headers["X-Overlays"], asked.headers["X-Top-K"]) == ("none", "7")

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:9/", "http://predictions/x", "http://127.0.0.1:9/x?/predictions/"]
    )
    def test_an_address_without_predictions_is_told(self, url: str) -> None:
        with Client(url) as client, pytest.raises(ValueError, match="needs a url with /predictions/"):
            client.explain(b"photo")


class TestRequest:
    def test_path_and_bytes_of_every_kind_are_the_same_request(self, tmp_path: Path) -> None:
        content = encode(cutouts(1)[0])
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        with client_of(scripted(FINE)) as (client, server):
            for source in (str(path), path, content, bytearray(content), memoryview(content)):
                client.classify(source)
        assert [asked.body for asked in server.asked] == [content] * 5
        assert {asked.headers["Content-Type"] for asked in server.asked} == {"application/octet-stream"}

    def test_options_are_sent_only_where_given(self) -> None:
        with client_of(scripted(FINE)) as (client, server):
            client.classify(b"photo")
            client.classify(b"photo", top_k=3, min_probability=0.5)
            list(client.classify_many([b"photo"], top_k=1, min_probability=0))
        sent = [(asked.headers.get("X-Top-K"), asked.headers.get("X-Min-Probability")) for asked in server.asked]
        assert sent == [(None, None), ("3", "0.5"), ("1", "0")]

    def test_one_connection_is_kept_for_all_requests(self) -> None:
        ports = set()

        class Watching(FakeHandler):
            def handle(self) -> None:
                ports.add(self.client_address[1])
                super().handle()

        with client_of(scripted(FINE)) as (client, server):
            server.RequestHandlerClass = Watching
            for _ in range(3):
                client.classify(b"photo")
        assert len(ports) == 1

    def test_the_environments_proxy_is_not_asked_for_loopback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", NOBODY)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with serving(scripted(FINE)) as server:
            assert classify(b"photo", url=server.url).recognized
            with pytest.raises(ServiceError, match=r"connect to proxy"):
                classify(b"photo", url="http://192.0.2.1/")

    @pytest.mark.parametrize("proxy", ["nonsense://127.0.0.1:9", "http://[::1"])
    def test_a_proxy_that_cannot_be_used_is_told(self, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ServiceError, match=r"no answer from http://192\.0\.2\.1/"):
            classify(b"photo", url="http://192.0.2.1/")

    @pytest.mark.parametrize("missing", ["", "nothing.jpg"])
    def test_a_folder_or_a_missing_file_is_an_os_error_and_nothing_is_sent(self, tmp_path: Path, missing: str) -> None:
        with client_of(scripted(FINE)) as (client, server):
            with pytest.raises(IsADirectoryError if not missing else FileNotFoundError):
                client.classify(tmp_path / missing)
            assert server.asked == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"url": "localhost:8080"}, "url must be an address such as http://127.0.0.1:8080"),
            ({"url": "ftp://host/"}, "url must be"),
            ({"url": "http://"}, "url must be"),
            ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
            ({"timeout": float("inf")}, "timeout must be"),
            ({"retries": -1}, "retries must be at least 0, not -1"),
            ({"parallel": 0}, "parallel must be at least 1, not 0"),
            ({"token": ""}, "token must be"),
            ({"token": "right\n"}, "token must be printable ASCII"),
        ],
    )
    def test_settings_out_of_range_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as told:
            Client(**options)
        assert "right" not in str(told.value)

    def test_a_missing_certificate_bundle_is_no_file_of_an_image(self) -> None:
        with (
            Client("https://127.0.0.1:9/", verify="/nowhere.pem") as client,
            pytest.raises(ServiceError, match=r"nowhere\.pem"),
        ):
            client.classify(b"photo")

    def test_verify_counts_more_than_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, "/nowhere.pem")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(
            "densenet_client.exchange._LOOPBACK", ()
        )  # as on any other host, where the environment counts
        with Client("https://127.0.0.1:9/", verify=False) as client, pytest.raises(ServiceUnavailable):
            client.classify(b"photo")


def decoded(source: Image.Image) -> Image.Image:
    image = Image.open(io.BytesIO(prepare(source)()))
    image.load()
    return image


def picture(mode: str) -> Image.Image:
    """A photograph in that mode, using its full range."""
    photo = cutouts(1)[0].crop((0, 0, 61, 47))
    grey = photo.convert("L")
    if mode in ("I", "F"):
        return grey.convert(mode).point(lambda value: value * 1001 - 70_000)
    if mode.startswith("I;16"):
        wide = grey.convert("I").point(lambda value: value * 257)
        return wide.convert("I;16") if mode == "I;16" else wide.convert("I;16").convert(mode)
    if mode in ("LA", "RGBA"):
        clear = photo.convert(mode)
        clear.putalpha(grey)
        return clear
    if mode in ("La", "RGBa"):
        return picture({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "PA":
        return photo.convert("P").convert("PA")
    if mode == "LAB":
        return Image.merge("LAB", photo.split())
    return photo.convert(mode)


class TestPicture:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
    def test_files_hold_it_as_it_is(self, mode: str) -> None:
        sent = decoded(picture(mode))
        assert (sent.mode, sent.size) == (mode, (61, 47))
        assert sent.tobytes() == picture(mode).tobytes()
        assert len(set(sent.convert("F" if mode in ("I", "F", "I;16") else "RGB").get_flattened_data())) > 1

    @pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "LAB", "PA", "RGBa", "La"])
    def test_modes_without_a_file_look_the_same(self, mode: str) -> None:
        original = picture(mode)
        rgb = original.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")).convert("RGB")
        assert decoded(original).convert("RGB").tobytes() == rgb.tobytes()

    def test_transparency_and_a_cmyk_profile_go_along(self) -> None:
        grey = picture("L")
        grey.info["transparency"] = 7
        inks = picture("CMYK")
        inks.info["icc_profile"] = b"a profile"
        assert decoded(grey).info["transparency"] == 7
        assert decoded(inks).info["icc_profile"] == b"a profile"
        palette = picture("RGBA").quantize(16)
        assert decoded(palette).convert("RGBA").tobytes() == palette.convert("RGBA").tobytes()

    def test_it_is_turned_as_its_file_would_be(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter to the right
        path = tmp_path / "photo.png"
        picture("RGB").save(path, exif=exif)
        with Image.open(path) as photo:
            sent = decoded(photo)
        assert sent.tobytes() == picture("RGB").transpose(Image.Transpose.ROTATE_270).tobytes()
        assert 0x0112 not in sent.getexif()

    def test_what_changes_later_was_sent_as_it_was(self) -> None:
        """The frames of an animation are one picture that moves on, and buffers are filled anew."""
        frames = [Image.new("L", (8, 8), level) for level in (10, 20, 30, 40)]
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        buffer = bytearray(b"0")

        def moving() -> Iterator[Image.Image | bytearray]:
            for buffer[0], frame in enumerate(ImageSequence.Iterator(Image.open(file))):
                yield frame
                yield buffer

        def level(asked: Asked) -> Reply:
            body = asked.body
            seen = Image.open(io.BytesIO(body)).convert("L").getpixel((0, 0)) if len(body) > 1 else body[0]
            return Reply(body=answer(str(seen)))

        with client_of(level) as (client, _):
            found = [result[0].label for result in client.classify_many(moving()) if isinstance(result, Answer)]
        assert found == ["10", "0", "20", "1", "30", "2", "40", "3"]

    def test_a_damaged_closed_or_empty_one_is_an_os_error(self) -> None:
        damaged = Image.open(io.BytesIO(encode(cutouts(1)[0])[:9000]))
        closed = Image.new("RGB", (3, 3))
        closed.close()
        bad = [damaged, closed, Image.new("RGB", (0, 0))]
        with client_of(scripted(FINE)) as (client, server):
            for image in bad:
                with pytest.raises(OSError, match=r"truncated|cannot be encoded"):
                    client.classify(image)
            assert [isinstance(result, OSError) for result in client.classify_many(bad)] == [True] * 3
            assert server.asked == []

    def test_anything_else_is_a_type_error(self) -> None:
        with client_of(scripted(FINE)) as (client, _):
            with pytest.raises(TypeError, match="a path, bytes or a Pillow image, not int"):
                client.classify(7)  # type: ignore[arg-type]
            for one in ("photo.jpg", b"photo"):
                with pytest.raises(TypeError, match="needs several images"):
                    client.classify_many(one)


class TestRefusals:
    def test_the_services_words_its_code_and_its_status(self) -> None:
        body = '{"success": false, "error": {"code": "not_an_image", "message": "this is text"}}'
        with serving(scripted(Reply(415, body))) as server, pytest.raises(RequestRejected) as refusal:
            classify(b"photo", url=server.url)
        error = refusal.value
        assert (error.code, error.message, error.status) == ("not_an_image", "this is text", 415)
        assert str(error) == "not_an_image: this is text"
        assert not isinstance(error, ServiceError)

    @pytest.mark.parametrize("body", ["", "<html>nginx</html>"])
    def test_too_large_is_a_refusal_in_anyones_words(self, body: str) -> None:
        with serving(scripted(Reply(413, body))) as server, pytest.raises(RequestRejected) as refusal:
            classify(b"x" * 3 * 2**19, url=server.url)
        assert (refusal.value.code, refusal.value.status) == ("request_too_large", 413)
        assert "1.5 MiB" in refusal.value.message

    @pytest.mark.parametrize(
        "error", [RequestRejected("a", "b", 400), Unavailable("c", 7), Unauthorized("d"), ServiceUnavailable("e")]
    )
    def test_errors_survive_a_process_border(self, error: Exception) -> None:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


class TestToken:
    def test_it_is_a_bearer_and_stronger_than_a_password_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login someone password else\n")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(
            "densenet_client.exchange._LOOPBACK", ()
        )  # as on any other host, where the environment counts
        with serving(scripted(FINE)) as server:
            classify(b"photo", url=server.url, token="right")
            assert server.asked[0].headers["Authorization"] == "Bearer right"

    @pytest.mark.parametrize(
        "reply", [Reply(400, INVALID_KEY), Reply(401, ""), Reply(403, "<html>"), Reply(401, '{"error": {}}')]
    )
    @pytest.mark.parametrize(("token", "advice"), [(None, "give one"), ("hunter2", "give the current one")])
    def test_a_missing_or_wrong_one_is_told(self, reply: Reply, token: str | None, advice: str) -> None:
        with serving(scripted(reply)) as server:
            with pytest.raises(Unauthorized, match=advice) as told:
                classify(b"photo", url=server.url, token=token)
            assert "hunter2" not in str(told.value)
            assert len(server.asked) == 1

    def test_an_image_of_that_word_is_not_mistaken(self) -> None:
        body = json.dumps({"error": {"code": "bad_option", "message": "not a number"}})
        with serving(scripted(Reply(400, body))) as server, pytest.raises(RequestRejected):
            classify(b"InvalidKeyException", url=server.url)


class TestRetries:
    def test_a_full_queue_is_tried_again(self) -> None:
        with client_of(scripted(BUSY, BUSY, BUSY, FINE)) as (client, server):
            assert client.classify(b"photo")[0].label == "cat"
        assert [asked.body for asked in server.asked] == [b"photo"] * 4

    def test_until_the_retries_are_used_up(self) -> None:
        with client_of(scripted(BUSY), retries=2) as (client, server):
            with pytest.raises(ServiceError, match=r"answered 503.*no worker"):
                client.classify(b"photo")
            assert len(server.asked) == 3

    def test_none_are_made_where_none_are_wanted(self) -> None:
        with client_of(scripted(BUSY), retries=0) as (client, server):
            with pytest.raises(ServiceError):
                client.classify(b"photo")
            assert len(server.asked) == 1

    @pytest.mark.parametrize(
        ("wish", "timeout", "waited"), [("0", 60, 0), ("1", 60, 1), ("3600", 1.5, 1.5), ("0", 1.5, 0)]
    )
    def test_the_services_wish_is_honoured_up_to_the_timeout(
        self, retries: list[RetryDetails], wish: str, timeout: float, waited: float
    ) -> None:
        busy = Reply(503, NO_WORKER, {"Retry-After": wish})
        with stamina.set_testing(False), client_of(scripted(busy, FINE), timeout=timeout) as (client, _):
            client.classify(b"photo")
        assert [details.wait_for for details in retries] == [waited]

    @pytest.mark.parametrize("wish", [None, "-1", "soon", "Wed, 21 Oct 2065 07:28:00 GMT"])
    def test_without_one_the_wait_is_short_and_random(self, retries: list[RetryDetails], wish: str | None) -> None:
        busy = Reply(503, NO_WORKER, {"Retry-After": wish} if wish else {})
        with stamina.set_testing(False), client_of(scripted(busy, FINE)) as (client, _):
            client.classify(b"photo")
        assert [0.1 <= details.wait_for <= 1.1 for details in retries] == [True]

    def test_neither_image_nor_token_reach_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        with client_of(scripted(BUSY, FINE), token="secret") as (client, _):
            client.classify(b"photo")
        assert [record.name for record in caplog.records] == ["stamina"]
        logged = repr(vars(caplog.records[0]))
        assert ("503" in logged, "secret" in logged, "photo" in logged) == (True, False, False)

    @pytest.mark.parametrize("lost", [None, Reply(announced=10_000)])
    def test_a_lost_connection_is_tried_again(self, lost: Reply | None) -> None:
        with client_of(scripted(lost, lost, FINE)) as (client, server):
            assert client.classify(b"photo")[0].label == "cat"
            assert len(server.asked) == 3

    def test_a_connection_lost_for_good_is_told(self) -> None:
        with client_of(scripted(None)) as (client, server):
            with pytest.raises(ServiceError, match=r"the connection to http://127\.0\.0\.1:\d+/.* was lost"):
                client.classify(b"photo")
            assert len(server.asked) == 4

    def test_one_who_comes_too_soon_comes_again(self) -> None:
        with client_of(scripted(Reply(429, "{}", {"Retry-After": "0"}), FINE)) as (client, server):
            assert client.classify(b"photo")[0].label == "cat"
            assert len(server.asked) == 2

    @pytest.mark.parametrize("status", [400, 404, 405, 408, 500, 502, 504, 507])
    def test_nothing_else_is_tried_again(self, status: int) -> None:
        with client_of(scripted(Reply(status, '{"code": 1, "type": "x"}'))) as (client, server):
            with pytest.raises(ServiceError, match=f"answered {status}"):
                client.classify(b"photo")
            assert len(server.asked) == 1

    def test_a_service_that_is_not_there_is_told_at_once(self, retries: list[RetryDetails]) -> None:
        with pytest.raises(ServiceUnavailable, match="start the service with scripts/serve"):
            classify(b"photo", url=NOBODY)
        assert retries == []

    def test_so_is_a_name_that_nobody_has(self, retries: list[RetryDetails], monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(ServiceUnavailable, match=r"nothing answers at http://photos\.example/"):
            classify(b"photo", url="http://photos.example/")
        assert retries == []


class TestTimeouts:
    @pytest.fixture
    def silence(self) -> Iterator[threading.Event]:
        """Ends with the test, so that no server hangs on it."""
        event = threading.Event()
        timer = threading.Timer(20, event.set)
        timer.start()
        yield event
        timer.cancel()
        timer.join()

    def test_a_silent_service_is_told_and_not_asked_again(self, silence: threading.Event) -> None:
        def silent(_: Asked) -> Reply:
            silence.wait()
            return FINE

        with client_of(silent, timeout=1.5) as (client, server), ExitStack() as stack:
            stack.callback(silence.set)
            with pytest.raises(ServiceError, match=r"no answer from .* within 1\.5 seconds"):
                client.classify(b"photo")
            assert len(server.asked) == 1

    def test_so_is_one_that_stops_in_the_middle(self, silence: threading.Event) -> None:
        class Stopping(FakeHandler):
            def do_POST(self) -> None:
                self.server.asked.append(Asked(0, b"", {}))
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
                self.wfile.flush()
                silence.wait()
                self.close_connection = True

        with client_of(scripted(FINE), timeout=1.5) as (client, server), ExitStack() as stack:
            stack.callback(silence.set)
            server.RequestHandlerClass = Stopping
            with pytest.raises(ServiceError, match=r"no answer from .* within 1\.5 seconds"):
                client.classify(b"photo")
            assert len(server.asked) == 1

    def test_and_one_that_does_not_read(self, silence: threading.Event) -> None:
        class Deaf(FakeHandler):
            def handle(self) -> None:
                self.server.asked.append(Asked(0, b"", {}))
                silence.wait()

        with client_of(scripted(FINE), timeout=1.5) as (client, server), ExitStack() as stack:
            stack.callback(silence.set)
            server.RequestHandlerClass = Deaf
            with pytest.raises(ServiceError, match=r"no answer from .* within 1\.5 seconds"):
                client.classify(b"x" * 50_000_000)
            assert len(server.asked) == 1


def numbered(count: int) -> list[bytes]:
    return [str(i).encode() for i in range(count)]


def label(result: Result) -> str:
    return result[0].label if isinstance(result, Answer) else type(result).__name__


class TestMany:
    def test_results_come_in_the_order_of_the_images(self) -> None:
        def delayed(asked: Asked) -> Reply:
            time.sleep(random.random() / 50)
            return labelling(asked)

        with client_of(delayed, parallel=8) as (client, server):
            found = [label(result) for result in client.classify_many(numbered(100))]
            assert found == [str(i) for i in range(100)]
            assert [asked.body for asked in server.asked] != numbered(100)

    def test_as_many_at_once_as_wanted_and_no_more(self) -> None:
        counting = Counting(4)
        with client_of(counting, parallel=4) as (client, _):
            assert [label(result) for result in client.classify_many(numbered(20))] == [str(i) for i in range(20)]
        assert counting.most == 4

    def test_threads_that_share_a_client_take_turns(self, caplog: pytest.LogCaptureFixture) -> None:
        with client_of(labelling, parallel=2) as (client, _):
            found: list[str] = []
            workers = [
                threading.Thread(target=lambda i=i: found.append(client.classify(str(i).encode())[0].label))
                for i in range(20)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        assert sorted(found, key=int) == [str(i) for i in range(20)]
        assert caplog.records == []

    def test_images_are_taken_only_a_little_ahead_of_the_results(self) -> None:
        taken = 0

        def endless() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield b"photo"

        with client_of(labelling, parallel=3) as (client, server):
            with closing(client.classify_many(endless())) as results:
                assert taken == 0
                for done in range(1, 30):
                    next(results)
                    assert done <= taken <= done + 6
            assert len(server.asked) <= 29 + 6
        assert threads() == []

    def test_a_known_result_does_not_wait_for_all_the_images_that_may_be_ahead(self) -> None:
        taken = 0

        def trickle() -> Iterator[bytes]:
            nonlocal taken
            for image in numbered(2000):
                taken += 1
                yield image
                time.sleep(0.01)

        with (
            client_of(labelling, parallel=1000) as (client, _),
            closing(client.classify_many(trickle())) as results,
        ):
            assert label(next(results)) == "0"
            assert taken < 2000

    def test_an_error_stands_in_its_place(self, tmp_path: Path) -> None:
        refusal = '{"error": {"code": "not_an_image", "message": "this is text"}}'
        damaged = Image.open(io.BytesIO(encode(cutouts(1)[0])[:9000]))

        def mixed(asked: Asked) -> Reply:
            odd = {b"bad": Reply(415, refusal), b"strange": Reply(500, "oops"), b"busy": BUSY}
            return odd.get(asked.body) or labelling(asked)

        images = [b"0", b"bad", tmp_path, b"3", damaged, b"strange", tmp_path / "none", b"busy", b"8"]
        with client_of(mixed) as (client, _):
            found = list(client.classify_many(images))
        expected = "0 RequestRejected IsADirectoryError 3 OSError ServiceError FileNotFoundError Unavailable 8"
        assert " ".join(map(label, found)) == expected

    def test_an_error_does_not_keep_its_image_alive(self) -> None:
        with client_of(scripted(None)) as (client, _):
            (error,) = client.classify_many([b"photo"])
        assert isinstance(error, ServiceError)
        assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)

    def test_nobody_there_and_a_wrong_token_are_raised(self) -> None:
        with Client(NOBODY) as nobody, pytest.raises(ServiceUnavailable):
            list(nobody.classify_many(numbered(100)))
        assert threads() == []

        def expiring(asked: Asked) -> Reply:
            return labelling(asked) if asked.number < 5 else Reply(400, INVALID_KEY)

        with client_of(expiring, parallel=2) as (client, server):
            with pytest.raises(Unauthorized):
                list(client.classify_many(numbered(100)))
            assert len(server.asked) < 20
        assert threads() == []

    @pytest.mark.parametrize(("status", "body"), STRANGERS)
    def test_one_that_is_not_the_service_ends_all_at_once(self, status: int, body: str) -> None:
        with client_of(scripted(Reply(status, body)), parallel=2) as (client, server):
            with pytest.raises(NotTheService, match=f"answered {status} with an unexpected response"):
                list(client.classify_many(numbered(100)))
            assert len(server.asked) < 20
        assert threads() == []

    @pytest.mark.parametrize("status", [408, 500, 502, 504, 507])
    def test_a_service_that_fails_at_one_image_is_asked_about_the_others(self, status: int) -> None:
        with client_of(scripted(Reply(status, "<html>"), FINE), parallel=1) as (client, _):
            assert list(map(label, client.classify_many(numbered(2)))) == ["ServiceError", "cat"]

    @pytest.mark.parametrize("images", [[], iter(())])
    def test_of_no_images_there_are_no_results(self, images: list[bytes]) -> None:
        with client_of(labelling) as (client, server):
            assert list(client.classify_many(images)) == []
            assert server.asked == []

    def test_closing_early_leaves_no_thread_and_tries_nothing_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        arrived, closing_down = threading.Event(), threading.Event()

        class Telling(threading.Event):
            def set(self) -> None:
                super().set()
                closing_down.set()

        def stuck(asked: Asked) -> Reply:
            if asked.body == b"0":
                return FINE
            arrived.set()
            closing_down.wait(20)
            return BUSY

        monkeypatch.setattr("densenet_client.client.Event", Telling)
        with client_of(stuck, parallel=2) as (client, server):
            results = client.classify_many(numbered(100))
            next(results)
            arrived.wait(20)
            assert threads() != []
            results.close()
            assert threads() == []
            sent = [asked.body for asked in server.asked]
        assert len(set(sent)) == len(sent) <= 3

    def test_an_exception_among_the_images_comes_through_and_leaves_no_thread(self) -> None:
        def failing() -> Iterator[bytes]:
            yield from numbered(3)
            raise LookupError("no more")

        with client_of(labelling) as (client, _):
            with pytest.raises(LookupError, match="no more"):
                list(client.classify_many(failing()))
            assert threads() == []


class TestPackage:
    def test_everything_public_is_at_its_front_door(self) -> None:
        assert all(hasattr(package, name) for name in package.__all__)

    def test_it_needs_nothing_but_httpx_and_stamina(self) -> None:
        """Neither Pillow nor what only the command uses."""
        # httpx brings a command of its own, and rich with it, where click is installed; the client does not install it.
        program = "import sys; sys.modules['click'] = None; import densenet_client; "
        program += "print({'PIL', 'numpy', 'typer', 'rich', 'torch', 'psutil', 'yaml'} & set(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == "set()"


class TestPredict:
    """What the command tells at the terminal."""

    @staticmethod
    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-m", "densenet_client.predict", *map(str, arguments)]
        return subprocess.run(
            command,
            env=environment,
            input="photo",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_tries_again_without_noise(self) -> None:
        busy = Reply(503, NO_WORKER, {"Retry-After": "0"})
        with serving(scripted(busy, busy, FINE)) as server:
            done = self.run("--json", "--url", server.url, "-")
            assert len(server.asked) == 3
        assert (done.returncode, done.stderr) == (0, f"{server.url}: densenet 1.0, weights untrained, fp32\n")
        assert json.loads(done.stdout) == {
            "file": "-",
            "predictions": [
                {"class_id": "n1", "label": "cat", "probability": 0.75},
                {"class_id": "n2", "label": "rest", "probability": 0.25},
            ],
            "recognized": True,
            "weights": "untrained",
            "model": {"name": "densenet", "version": "1.0", "weights": "untrained", "precision": "fp32"},
            "options": {},
        }

    def test_sends_no_option_that_was_not_given(self) -> None:
        with serving(scripted(FINE)) as server:
            for options in ((), ("--top-k", 7), ("--min-probability", 0.5)):
                self.run("--url", server.url, *options, "-")
            sent = [(asked.headers.get("X-Top-K"), asked.headers.get("X-Min-Probability")) for asked in server.asked]
        assert sent == [(None, None), ("7", None), (None, "0.5")]

    def test_sends_the_token_of_the_environment_or_of_the_command_line(self) -> None:
        with serving(scripted(FINE)) as server:
            self.run("--url", server.url, "-", DENSENET_TOKEN="one")
            self.run("--url", server.url, "--token", "two", "-", DENSENET_TOKEN="one")
            self.run("--url", server.url, "-", DENSENET_TOKEN="")
            sent = [asked.headers.get("Authorization") for asked in server.asked]
        assert sent == ["Bearer one", "Bearer two", None]

    def test_a_missing_token_a_wrong_address_and_a_wrong_timeout_are_one_line(self) -> None:
        with serving(scripted(Reply(400, INVALID_KEY))) as server:
            wanted = self.run("--url", server.url, *["-"] * 3)
        address = self.run("--url", "localhost", "-")
        timeout = self.run("--timeout", 0, "-")
        for done, words in ((wanted, "DENSENET_TOKEN"), (address, "url must be"), (timeout, "timeout must be")):
            assert done.returncode == 1
            assert done.stderr.startswith("predict: ")
            assert words in done.stderr
            assert done.stderr.count("\n") == 1

    def test_a_wrong_address_is_one_line_and_no_row(self) -> None:
        for status, body in STRANGERS:
            with serving(scripted(Reply(status, body))) as server:
                done = self.run("--csv", "--url", server.url, *["-"] * 30)
                assert len(server.asked) < 20
            assert done.returncode == 1
            assert len(done.stdout.splitlines()) == 1
            assert done.stderr.startswith(f"predict: {server.url} answered {status} with an unexpected response")
            assert done.stderr.count("\n") == 1

    def test_another_model_is_told_when_it_begins_to_answer(self) -> None:
        other = answer().replace('"1.0"', '"2.0"').replace("untrained", "better.pth")
        with serving(scripted(FINE, Reply(body=other), FINE)) as server:
            done = self.run("--parallel", 1, "--url", server.url, *["-"] * 3)
        assert done.stderr.splitlines()[:2] == [
            f"{server.url}: densenet 1.0, weights untrained, fp32",
            f"{server.url}: densenet 2.0, weights better.pth, fp32",
        ]

    def test_a_slow_service_is_a_row(self) -> None:
        asleep = threading.Event()

        def slow(_: Asked) -> Reply:
            asleep.wait(20)
            return FINE

        with serving(slow) as server, ExitStack() as stack:
            stack.callback(asleep.set)
            done = self.run("--csv", "--timeout", 0.2, "--url", server.url, "-")
        assert "within 0.2 seconds" in done.stdout
        assert done.stderr == "predict: 1 of 1 images could not be classified\n"
