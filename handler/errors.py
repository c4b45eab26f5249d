"""Errors that clients see: stable codes for programs, a message for people."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable error codes. A code is never renamed, and its HTTP status never changes."""

    NO_IMAGE = "no_image"
    UNKNOWN_FIELD = "unknown_field"
    REPEATED_PART = "repeated_part"
    BAD_FORM = "bad_form"
    BAD_ENCODING = "bad_encoding"
    BAD_JSON = "bad_json"
    BAD_BASE64 = "bad_base64"
    BAD_TENSOR = "bad_tensor"
    BAD_OPTION = "bad_option"
    TOO_MANY_IMAGES = "too_many_images"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANSWER_TOO_LARGE = "answer_too_large"
    BODY_TOO_LARGE = "body_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    BROKEN_IMAGE = "broken_image"
    TOO_COSTLY = "too_costly"
    INTERNAL_ERROR = "internal_error"
    DRAINING = "draining"

    @property
    def status(self) -> int:
        """Return the HTTP status of a response in which the whole request fails with this code."""
        return _STATUS.get(self, 400)


_STATUS = {
    ErrorCode.TOO_MANY_IMAGES: 413,
    ErrorCode.TOO_MANY_PIXELS: 413,
    ErrorCode.ANSWER_TOO_LARGE: 413,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.BAD_ENCODING: 415,
    ErrorCode.NOT_AN_IMAGE: 415,
    ErrorCode.UNSUPPORTED_FORMAT: 415,
    ErrorCode.BROKEN_IMAGE: 422,
    ErrorCode.TOO_COSTLY: 422,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.DRAINING: 503,
}


class RequestError(Exception):
    """One image or one request is rejected. The message says what is wrong and what to send instead."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
