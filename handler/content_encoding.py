"""Undo the Content-Encoding of a request's body: gzip or deflate, up to a limit of the decompressed size."""

import zlib

from handler.errors import ErrorCode, RequestError

# Values of wbits for zlib. "deflate" is zlib's format by RFC 9110; aiohttp, for one, sends it without zlib's header.
_GZIP, _ZLIB, _RAW = 31, 15, -15
_SUPPORTED = ("gzip", "x-gzip", "deflate")


def decode(body: bytes | bytearray, encoding: str, limit: int) -> bytes:
    """Decompress a body. The limit in bytes bounds memory and time, however small the body is.

    Raises:
        RequestError: bad_encoding, or body_too_large for more bytes than the limit.
    """
    if encoding not in _SUPPORTED:
        raise RequestError(
            ErrorCode.BAD_ENCODING, "the Content-Encoding of the body must be gzip or deflate; or send it uncompressed"
        )
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    decompressor = zlib.decompressobj(_GZIP if encoding != "deflate" else _ZLIB if is_zlib else _RAW)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(
            ErrorCode.BAD_ENCODING, f"the body is not {encoding}, as its Content-Encoding says, or it is damaged"
        ) from error
    if len(content) > limit:
        raise RequestError(
            ErrorCode.BODY_TOO_LARGE,
            f"the body has more than {limit} bytes after decompression; send a smaller image, or fewer",
        )
    if not decompressor.eof or decompressor.unused_data:
        problem = "is cut short" if not decompressor.eof else "has more bytes after the end of its compressed data"
        raise RequestError(ErrorCode.BAD_ENCODING, f"the compressed body {problem}")
    return content
