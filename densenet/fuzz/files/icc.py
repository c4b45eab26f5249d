"""ICC profiles of printers with excessive numbers of stages or segments."""

import struct

_D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
_HEADER = 128
_TABLE = 4 + 12  # a count and one entry


def profile(
    tag: bytes, data: bytes, *, space: bytes = b"CMYK", kind: bytes = b"prtr", version: int = 0x0430_0000
) -> bytes:
    """Build a profile with one tag."""
    size = _HEADER + _TABLE + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", version, kind, space, b"Lab ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
    head = (head.ljust(68, b"\0") + _D50).ljust(_HEADER, b"\0")
    return head + struct.pack(">I4sII", 1, tag, _HEADER + _TABLE, len(data)) + data


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
