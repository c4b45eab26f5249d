"""ICC profiles with excessive numbers of stages, segments, points and nodes."""

import struct
from collections.abc import Mapping

_D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
_HEADER = 128


def profile(
    tag: bytes,
    data: bytes,
    *,
    space: bytes = b"CMYK",
    kind: bytes = b"prtr",
    version: int = 0x0430_0000,
    connection: bytes = b"Lab ",
) -> bytes:
    """Build a profile with one tag."""
    return with_tags({tag: data}, space=space, kind=kind, version=version, connection=connection)


def with_tags(
    tags: Mapping[bytes, bytes],
    *,
    space: bytes,
    kind: bytes = b"mntr",
    version: int = 0x0430_0000,
    connection: bytes = b"Lab ",
) -> bytes:
    """Build a profile; tags with the same data share it."""
    start = _HEADER + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        at = data.find(value) if value in data else len(data)
        data += value if at == len(data) else b""
        table += struct.pack(">4sII", tag, start + at, len(value))
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", version, kind, space, connection)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
    head = (head.ljust(68, b"\0") + _D50).ljust(_HEADER, b"\0")
    return head + table + data


def _floats(*values: float) -> bytes:
    return struct.pack(f">{len(values)}f", *values)


def _matrix(inputs: int, outputs: int, values: list[float]) -> bytes:
    return b"matf" + bytes(4) + struct.pack(">HH", inputs, outputs) + _floats(*values, *[0.0] * outputs)


def _elements(*elements: tuple[bytes, int], inputs: int = 4, outputs: int = 3) -> bytes:
    """Build a multiProcessElements tag. Each element is stored once and run the given number of times."""
    count = sum(times for _, times in elements)
    at = 16 + 8 * count
    table, data = b"", b""
    for element, times in elements:
        table += struct.pack(">II", at + len(data), len(element)) * times
        data += element
    return b"mpet" + bytes(4) + struct.pack(">HHI", inputs, outputs, count) + table + data


def _to_lab(inputs: int = 4) -> bytes:
    return _matrix(inputs, 3, [0.3] * 3 * inputs)


def many_stages(count: int = 30_000) -> bytes:
    """Build a profile with thousands of matrix stages, which lcms runs for every sampled grid point."""
    identity = _matrix(4, 4, [1.0 if i % 5 == 0 else 0.001 for i in range(16)])
    return profile(b"D2B0", _elements((identity, count), (_to_lab(), 1)))


def many_segments(count: int = 60_000) -> bytes:
    """Build a profile with a curve of many segments, which lcms searches linearly."""
    breaks = [i / count for i in range(1, count)]
    formula = b"parf" + bytes(4) + struct.pack(">HH", 0, 0) + _floats(1.0, 1.0, 0.0, 0.0)
    curve = b"curf" + bytes(4) + struct.pack(">HH", count, 0) + _floats(*breaks) + formula * count
    table = struct.pack(">II", 12 + 8 * 4, len(curve)) * 4  # all four inks share the curve
    curves = b"cvst" + bytes(4) + struct.pack(">HH", 4, 4) + table + curve
    return profile(b"D2B0", _elements((curves, 1), (_to_lab(), 1)))


def large_table(points: int = 33) -> bytes:
    """Build a profile with a colour table as large as a request may be."""
    table = b"mft1" + bytes(4) + bytes([4, 3, points, 0]) + struct.pack(">9i", *[65536, 0, 0, 0] * 2, 65536)
    ramp = bytes(range(256))
    return profile(b"A2B0", table + ramp * 4 + bytes(3 * points**4) + ramp * 3, version=0x0240_0000)


def padded(size: int = 9_000_000) -> bytes:
    """Build a large profile of padding."""
    return profile(b"A2B0", _elements((_to_lab(), 1)).ljust(size, b"\0"))


def screen(points: int = 2, *, grey: bool = False) -> bytes:
    """Build the profile of a screen with curves of a number of points, or of one shade of grey."""
    ramp = (round(65535 * (i / (points - 1)) ** 2) for i in range(points))
    curve = b"curv" + bytes(4) + struct.pack(f">I{points}H", points, *ramp)
    if grey:
        return profile(b"kTRC", curve, space=b"GRAY", kind=b"mntr", connection=b"XYZ ")
    colorants = (b"rXYZ", 0.44, 0.22, 0.01), (b"gXYZ", 0.38, 0.72, 0.1), (b"bXYZ", 0.14, 0.06, 0.71)
    tags = {name: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * v) for v in xyz)) for name, *xyz in colorants}
    return with_tags(tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), space=b"RGB ", connection=b"XYZ ")


def large_colour_table(points: int = 100) -> bytes:
    """Build the profile of a screen with a table of a million colours."""
    table = b"mft1" + bytes(4) + bytes([3, 3, points, 0]) + struct.pack(">9i", *[65536, 0, 0, 0] * 2, 65536)
    ramp = bytes(range(256))
    data = table + ramp * 3 + bytes(range(256)) * (3 * points**3 // 256 + 1)
    return profile(b"A2B0", data[: len(table) + 3 * 256 + 3 * points**3] + ramp * 3, space=b"RGB ", version=0x0240_0000)


def colour_stages(count: int = 150_000) -> bytes:
    """Build the profile of a screen with thousands of matrix stages."""
    identity = _matrix(3, 3, [1.0 if i % 4 == 0 else 0.001 for i in range(9)])
    return profile(b"D2B0", _elements((identity, count), (_to_lab(3), 1), inputs=3), space=b"RGB ", kind=b"mntr")
