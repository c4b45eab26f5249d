"""Reading what no server is needed for: limits that must hold before anything is decoded."""

from collections.abc import Iterator, Mapping

import pytest

from handler import payload, routing
from handler.errors import ErrorCode, RequestError
from handler.payload import Row
from handler.request import Request
from handler.settings import Settings

SETTINGS = Settings()


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


def test_a_part_that_cannot_have_been_lost_is_not_missed() -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1100"}
    file = {"file": {"content-type": "image/jpeg"}}
    assert len(read({"file": bytearray(900)}, headers | file).uploads) == 1
    with pytest.raises(RequestError) as refusal:
        read({"file": bytearray(900)}, headers | file | {"Content-Length": "3000"})
    assert refusal.value.code is ErrorCode.REPEATED_PART


def refused(row: Mapping[str, object], headers: Mapping[str, object] | None = None) -> ErrorCode:
    with pytest.raises(RequestError) as refusal:
        read(row, headers or {})
    return refusal.value.code


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


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
        ({}, "top_k, min_probability, format"),
        ({"explain": "False"}, "top_k, min_probability, format"),
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
