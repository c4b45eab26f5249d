"""What a step may refuse, and why: stable codes for programs, a sentence for people."""

from enum import StrEnum


class Code(StrEnum):
    """The error codes callers may rely on. A code is never renamed, nor its status changed."""

    NO_IMAGE = "no_image"
    UNKNOWN_FIELD = "unknown_field"
    REPEATED_PART = "repeated_part"
    BAD_FORM = "bad_form"
    BAD_JSON = "bad_json"
    BAD_BASE64 = "bad_base64"
    BAD_TENSOR = "bad_tensor"
    BAD_OPTION = "bad_option"
    TOO_MANY_IMAGES = "too_many_images"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANSWER_TOO_LARGE = "answer_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    BROKEN_IMAGE = "broken_image"
    TOO_COSTLY = "too_costly"
    INTERNAL_ERROR = "internal_error"
    DRAINING = "draining"

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code when it answers a whole request."""
        return _STATUS.get(self, 400)


_STATUS = {
    Code.TOO_MANY_IMAGES: 413,
    Code.TOO_MANY_PIXELS: 413,
    Code.ANSWER_TOO_LARGE: 413,
    Code.NOT_AN_IMAGE: 415,
    Code.UNSUPPORTED_FORMAT: 415,
    Code.BROKEN_IMAGE: 422,
    Code.TOO_COSTLY: 422,
    Code.INTERNAL_ERROR: 500,
    Code.DRAINING: 503,
}


class Failure(Exception):
    """A refusal of one image, or of one request: its code, and what was wrong and what to send instead."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
