"""A thousand hostile bodies, good photos between them: no 5xx, no worker lost, every good photo answered; and what
broken uploads leave in the logs."""

import base64
import json
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from densenet.fuzz.files import icc, png
from densenet.polling import wait_until
from tests.integration.conftest import Server, same
from tests.photos import cutouts, encode

COUNT = 1000
BETWEEN = 4  # hostile bodies between two good photos
SMALL = cutouts(1)[0].resize((96, 64))
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
SEEDS = [encode(SMALL, name) for name in FORMATS] + [
    encode(SMALL.convert("CMYK"), "JPEG"),
    encode(SMALL.convert("P"), "PNG"),
    encode(SMALL.convert("L"), "TIFF", compression="tiff_lzw"),
    encode(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(90)]),
    encode(SMALL, "JPEG", icc_profile=icc.screen(100)),
    encode(SMALL.convert("L"), "JPEG", icc_profile=icc.screen(100, grey=True)),
    encode(SMALL.convert("RGBA"), "PNG", icc_profile=icc.large_colour_table(5)),
    png.with_colours(),
    png.with_colours(code_points=b""),
    png.small(png.chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
    encode(SMALL, "JPEG")[:-2],
    encode(SMALL, "JPEG", progressive=True)[:-2],
    encode(SMALL, "GIF")[:-3],
    encode(SMALL, "WEBP", xmp=bytes(40))[:-9],
]


def mutate(rng: random.Random, content: bytes) -> bytes:
    """A file with bytes flipped, cut out, repeated, or numbers pushed to their extremes, the header more often."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        reach = rng.choice((16, 64, 512, len(data)))
        at = rng.randrange(max(1, min(reach, len(data))))
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 200)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 100)]
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = rng.choice(SEEDS)[: rng.randrange(1, 300)]
    return bytes(data)


def hostile(rng: random.Random) -> dict[str, Any]:
    """Arguments of requests.post for one hostile request."""
    content = mutate(rng, rng.choice(SEEDS))
    text = base64.b64encode(content).decode()
    way = rng.randrange(10)
    if way == 0:
        return {"files": {rng.choice(("file", "accept", "top_k", "é")): content, "b": mutate(rng, content)}}
    if way == 1:
        return {"json": {"instances": [{"b64": text}, {"b64": text[: rng.randrange(len(text) + 1)]}]}}
    if way == 2:
        body = mutate(rng, json.dumps({"instances": [{"b64": "AA=="}], "parameters": {"top_k": 1}}).encode())
        return {"data": body, "headers": {"Content-Type": "application/json"}}
    if way == 3:
        values = {rng.choice(("top_k", "min_probability")): rng.choice(("", "-1", "1e9", "\0", "NaN", "[]", "9" * 400))}
        return {"files": {"file": content}, "data": values}
    return {
        "data": content,
        "headers": {"Content-Type": rng.choice(("image/jpeg", "application/octet-stream", "text/plain"))},
    }


def requests_of(seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    return (hostile(rng) for _ in range(COUNT))


def test_a_thousand_hostile_bodies(thorough: Server) -> None:
    server = thorough  # decodes as much as there is to decode
    good = encode(SMALL)
    headers = {"Content-Type": "image/jpeg"}
    expected = server.send(good).json()
    workers = server.workers()
    statuses: dict[int, int] = {}
    # One connection for the good photos: were an answer ever doubled or mixed up, the next one would show it.
    with requests.Session() as session:
        for i, request in enumerate(requests_of(seed=20)):
            status = server.post(**request).status_code
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500, (i, request)
            if i % BETWEEN == 0:
                assert same(session.post(server.url, data=good, headers=headers, timeout=60).json(), expected), i
    assert server.workers() == workers
    assert "unexpected failure" not in server.log()
    assert "Traceback" not in server.log()
    assert {200, 415, 422} <= statuses.keys(), statuses


def test_uploads_that_are_broken_off_fill_only_the_log_that_is_rotated(server: Server) -> None:
    logs = Path(server.service.logs)
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(100_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert wait_until(lambda: "HttpRequestHandler" in (logs / "ts_log.log").read_text(), 60)
    assert "HttpRequestHandler" not in (logs / "console.log").read_text()
