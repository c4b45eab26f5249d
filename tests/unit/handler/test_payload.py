"""Reading what no server is needed for: limits that must hold before anything is decoded."""

import gzip
import importlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from handler import payload, repeated_parts, routing
from handler.errors import ErrorCode, RequestError
from handler.payload import Row
from handler.request import Request
from handler.settings import Settings

SETTINGS = Settings()
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def read(row: Mapping[str, object], headers: Mapping[str, object]) -> Request:
    request = Row.make(row, headers)
    received = payload.read(request)
    return routing.detect_protocol(received, request.headers).read(received, SETTINGS)


class Untouchable(list[object]):
    """Instances that must not be looked at."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("looked at")


def test_too_many_instances_are_refused_before_any_is_looked_at() -> None:
    body = {"instances": Untouchable([0] * (SETTINGS.max_images + 1))}
    with pytest.raises(RequestError) as refusal:
        read({"body": body}, {"content-type": "application/json"})
    assert refusal.value.code is ErrorCode.TOO_MANY_IMAGES


def test_at_the_limit_of_images_a_request_is_read() -> None:
    request = read({"body": {"instances": [{"b64": "QUJD"}] * SETTINGS.max_images}}, {})
    assert [upload.content for upload in request.uploads] == [b"ABC"] * SETTINGS.max_images


@pytest.mark.parametrize(("length", "is_read"), [("1100", True), ("33000", True), ("34000", False), ("x", True)])
def test_a_form_is_cut_short_if_its_parts_cannot_have_so_many_bytes(length: str, is_read: bool) -> None:
    headers = FORM | {"Content-Length": length, "file": {"content-type": "image/jpeg"}}
    if is_read:
        assert len(read({"file": bytearray(900)}, headers).uploads) == 1
    else:
        assert refused({"file": bytearray(900)}, headers) is ErrorCode.BAD_FORM


def torchserves_row(*parts: tuple[str, bytes, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What TorchServe's worker makes of a form with these parts: name, content and content type."""
    service = importlib.import_module("ts.service")
    repeated_parts.keep_all()
    repeated_parts.keep_all()  # as a second model's handler in the same process does
    parameters = [{"name": name, "value": bytearray(value), "contentType": kind} for name, value, kind in parts]
    batch = [{"requestId": b"1", "headers": [], "parameters": parameters}]
    headers, rows, _ = service.Service.retrieve_data_for_inference(batch)
    return rows[0], FORM | {"explain": "False"} | headers[0].get_request_properties()


PNG = "image/png"


def test_parts_of_one_name_are_all_read_in_their_order() -> None:
    parts = [
        ("a", b"1", PNG),
        ("b", b"2", PNG),
        ("a", b"3", PNG),
        ("top_k", b"2", ""),
        ("top_k", b"4", PNG),
        ("a", b"5", PNG),
    ]
    request = read(*torchserves_row(*parts))
    assert [(upload.name, upload.content) for upload in request.uploads] == [
        *(("a", b"1"), ("b", b"2"), ("a", b"3"), ("top_k", b"4"), ("a", b"5"))
    ]
    assert request.top_k == 2


@pytest.mark.parametrize("option", payload.PREDICTING)
def test_an_option_may_not_be_sent_twice(option: str) -> None:
    row = torchserves_row(("file", b"1", PNG), (option, b"2", ""), (option, b"2", ""))
    assert refused(*row) is ErrorCode.REPEATED_PART


def test_on_a_route_with_a_query_the_forms_option_counts() -> None:
    row, headers = torchserves_row(("top_k", b"3", ""), ("file", b"1", PNG), ("top_k", b"2", ""))
    del headers["explain"]
    assert read(row, headers).top_k == 2


def test_a_query_cannot_take_the_bodys_place() -> None:
    row, headers = torchserves_row(("body", b"query", ""), ("body", b"\xff\xd8", ""))
    assert row["body"] == b"\xff\xd8"
    assert refused(row, headers | {"Content-Type": "image/jpeg"}) is ErrorCode.UNKNOWN_FIELD


@pytest.mark.parametrize(
    "field",
    [
        *(("csrf_token", b"abc"), ("_csrf", b"a"), ("csrfmiddlewaretoken", b"a"), ("authenticity_token", b"a")),
        *(
            ("submit", b"Upload"),
            ("_charset_", b"utf-8"),
            ("MAX_FILE_SIZE", b"30000"),
            ("__RequestVerificationToken", b"a"),
        ),
        *(("file", b""), ("file", b"{}"), ("utf8", "✓".encode()), ("submit", b"")),
    ],
)
def test_what_form_libraries_add_is_passed_over(field: tuple[str, bytes]) -> None:
    assert [upload.content for upload in read(*torchserves_row((*field, ""), ("file", b"1", PNG))).uploads] == [b"1"]
    assert refused(*torchserves_row((*field, ""))) is ErrorCode.NO_IMAGE or field[0] == "file"


@pytest.mark.parametrize("field", [("note", b"abc"), ("file", b"cat.jpg"), ("csrf", b"a"), ("note", b"{}")])
def test_other_text_is_refused(field: tuple[str, bytes]) -> None:
    assert refused(*torchserves_row((*field, ""), ("file", b"1", PNG))) is ErrorCode.UNKNOWN_FIELD


def test_a_file_may_have_the_name_of_such_a_field() -> None:
    request = read(*torchserves_row(("submit", b"1", PNG), ("csrf_token", b"a", "")))
    assert [upload.name for upload in request.uploads] == ["submit"]


def decompressed(body: bytes, encoding: str, limit: int = 100, **headers: str) -> object:
    row = Row.make({"body": bytearray(body)}, {"Content-Encoding": encoding, **headers})
    return payload.decompress(row, limit).entries["body"]


CONTENT = bytes(range(100))
SHORT = ErrorCode.BAD_ENCODING


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        *(
            ("gzip", gzip.compress(CONTENT, mtime=0)),
            ("X-GZip ", gzip.compress(CONTENT, mtime=0)),
            ("deflate", zlib.compress(CONTENT)),
        ),
        *(("deflate", zlib.compress(CONTENT, level)) for level in (0, 1, 9)),
        *(("deflate", zlib.compress(CONTENT, level, wbits=-15)) for level in (0, 1, 9)),
        *(("", CONTENT), ("identity", CONTENT), ("Identity", CONTENT)),
    ],
)
def test_a_body_is_decompressed_up_to_the_limit(encoding: str, body: bytes) -> None:
    assert decompressed(body, encoding) == CONTENT


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("gzip", gzip.compress(bytes(101), mtime=0), ErrorCode.BODY_TOO_LARGE),
        ("deflate", zlib.compress(bytes(10**8)), ErrorCode.BODY_TOO_LARGE),
        *((encoding, CONTENT, SHORT) for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "compress", "\0")),
        *(("gzip", gzip.compress(CONTENT, mtime=0)[:size], SHORT) for size in (1, 9, 10, 50, -8, -1)),
        *(("deflate", zlib.compress(CONTENT)[:size], SHORT) for size in (1, 2, 50, -1)),
        ("gzip", gzip.compress(CONTENT, mtime=0) + b"\0", SHORT),
        ("gzip", gzip.compress(b"", mtime=0) * 2, SHORT),
        ("gzip", gzip.compress(CONTENT, mtime=0)[:-8] + bytes(8), SHORT),
        ("deflate", gzip.compress(CONTENT, mtime=0), SHORT),
    ],
)
def test_another_body_is_refused(encoding: str, body: bytes, code: ErrorCode) -> None:
    with pytest.raises(RequestError) as refusal:
        decompressed(body, encoding)
    assert refusal.value.code is code


def test_an_empty_body_and_a_call_without_one_stay_as_they_are() -> None:
    assert decompressed(b"", "gzip") == b""
    row = Row.make({"data": b"1"}, {"Content-Encoding": "gzip"})
    assert payload.decompress(row, 1) is row


@pytest.mark.parametrize("text", ['{"instances": ["QUJD"]}', '\r\n {"instances": ["QUJD"]}', '{"inputs": "QUJD"}'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_recognised_with_a_byte_order_mark_and_without_a_content_type(text: str, encoding: str) -> None:
    assert [upload.content for upload in read({"body": text.encode(encoding)}, {"Host": "here"}).uploads] == [b"ABC"]


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe1{\x00Exif", b"\xff\xd8\xff\xe1[\x00Exif", b"\xff\xfe\xff\xd8", b"\x89{"]
)
def test_an_image_that_has_a_brace_near_its_start_is_no_json(start: bytes) -> None:
    assert [upload.content for upload in read({"body": start}, {"Host": "here"}).uploads] == [start]


def refused(row: Mapping[str, object], headers: Mapping[str, object] | None = None) -> ErrorCode:
    with pytest.raises(RequestError) as refusal:
        read(row, headers or {})
    return refusal.value.code


@pytest.mark.parametrize("name", [*payload.OPTIONS, "model_name"])
def test_a_file_may_have_an_options_name(name: str) -> None:
    request = read({name: bytearray(b"\xff\xd8")}, FORM | {name: {"content-type": "image/jpeg"}})
    assert [(upload.name, upload.content) for upload in request.uploads] == [(name, b"\xff\xd8")]


def test_a_field_with_an_options_name_is_the_option() -> None:
    row = {"file": bytearray(b"\xff\xd8"), "top_k": bytearray(b"3")}
    request = read(row, FORM | {"file": {"content-type": "image/jpeg"}, "top_k": {"content-type": ""}})
    assert ([upload.name for upload in request.uploads], request.top_k) == (["file"], 3)


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ({}, "top_k, min_probability, logits, embedding, embedding_norm, format"),
        ({"explain": "False"}, "top_k, min_probability, logits, embedding, embedding_norm, format"),
        ({"explain": "True"}, "top_k, min_probability, target, overlays"),
    ],
)
def test_a_refusal_names_the_options_of_the_address(address: dict[str, str], known: str) -> None:
    in_the_query = {"body": b"\xff\xd8", "topk": b"3"}, {"Host": "here"}
    in_a_form = (
        {"file": bytearray(b"\xff\xd8"), "topk": bytearray(b"3")},
        FORM | {"file": {"content-type": "image/jpeg"}},
    )
    for row, headers in (in_the_query, in_a_form):
        with pytest.raises(RequestError, match=f"valid (parameters|options): {known}$") as refusal:
            payload.read(Row.make(row, address | headers))
        assert refusal.value.code is ErrorCode.UNKNOWN_FIELD


@pytest.mark.parametrize("value", ["1" * 10**6 + "x", "0_1", "０.５", "1e", ".", "", "1.5", "-0", "nan", "inf", "0x1"])
def test_a_min_probability_as_text_is_read_strictly(value: str) -> None:
    assert refused({"data": b"\xff\xd8", "min_probability": value.encode()}) is ErrorCode.BAD_OPTION


@pytest.mark.parametrize("value", ["0", "1", "1.", ".5", "1e-06", " 0.25 ", "2.5E-1"])
def test_a_min_probability_as_text_may_be_written_as_numbers_are(value: str) -> None:
    request = read({"data": b"\xff\xd8", "min_probability": value.encode()}, {})
    assert request.options.min_probability == float(value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [b"", b"\0", b"3", b"\xff\xd8 a photo"])
def test_an_unknown_query_parameter_is_no_image(value: bytes) -> None:
    headers = {"Host": "here", "Content-Type": "image/jpeg"}
    assert refused({"body": b"\xff\xd8", "topk": value}, headers) is ErrorCode.UNKNOWN_FIELD


def test_beside_the_body_of_a_grpc_call_there_may_be_images_but_not_beside_json() -> None:
    assert len(read({"body": b"\xff\xd8", "other": b"\xff\xd8"}, {}).uploads) == 2
    assert refused({"body": b'{"instances": ["QUJD"]}', "other": b"\xff\xd8"}) is ErrorCode.UNKNOWN_FIELD


@pytest.mark.parametrize("document", ['{"instances": ["QUJD"], "top_k": 3}', '{"inputs": "QUJD", "top_k": 3}'])
def test_an_option_beside_the_parameters_is_told_rather_than_ignored(document: str) -> None:
    assert refused({"body": document.encode()}) is ErrorCode.BAD_OPTION


@pytest.mark.parametrize("document", [b'{"instances": ["QUJD"]}', b'{"inputs": "QUJD"}'])
def test_bytes_after_the_json_that_nothing_claims_are_refused(document: bytes) -> None:
    headers = {"Host": "here", "Inference-Header-Content-Length": str(len(document))}
    assert refused({"body": document + b"more"}, headers) is ErrorCode.BAD_JSON


def test_of_a_header_in_two_cases_torchserves_own_counts() -> None:
    for headers in ({"explain": "False", "Explain": "True"}, {"EXPLAIN": "True", "explain": "False"}):
        assert payload.normalize_headers(headers) == {"explain": "False"}
    assert payload.normalize_headers({"X-Top-K": "3", "part": {"content-type": "image/png"}}) == {"x-top-k": "3"}
