"""Reading what no server is needed for: limits that must hold before anything is decoded."""

from collections.abc import Iterator, Mapping

import pytest

from handler import payload, protocols
from handler.failures import Code, Failure
from handler.request import Request
from handler.settings import Settings

SETTINGS = Settings()


def read(row: Mapping[str, object], headers: Mapping[str, object]) -> Request:
    received = payload.read(row, headers)
    return protocols.recognize(received, payload.plain_headers(headers)).read(received, SETTINGS)


class Untouchable(list[object]):
    """Instances that must not be looked at."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("looked at")


def test_too_many_instances_are_refused_before_any_is_looked_at() -> None:
    body = {"instances": Untouchable([0] * (SETTINGS.max_images + 1))}
    with pytest.raises(Failure) as refusal:
        read({"body": body}, {"content-type": "application/json"})
    assert refusal.value.code is Code.TOO_MANY_IMAGES


def test_at_the_limit_of_images_a_request_is_read() -> None:
    request = read({"body": {"instances": [{"b64": "QUJD"}] * SETTINGS.max_images}}, {})
    assert [upload.content for upload in request.uploads] == [b"ABC"] * SETTINGS.max_images


def test_a_part_that_cannot_have_been_lost_is_not_missed() -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1100"}
    file = {"file": {"content-type": "image/jpeg"}}
    assert len(read({"file": bytearray(900)}, headers | file).uploads) == 1
    with pytest.raises(Failure) as refusal:
        read({"file": bytearray(900)}, headers | file | {"Content-Length": "3000"})
    assert refusal.value.code is Code.REPEATED_PART
