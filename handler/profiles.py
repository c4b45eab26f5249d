"""ICC profiles: limit what an embedded one may cost, and build one where a file describes its colours in numbers.

Sources: ICC.1:2022, sections 7.3 (tag table), 9.2.34 ff. (D2B and B2D tags), 10.6 and 10.18 (curves), 10.16
(multiProcessElements), annex E (Bradford); ITU-T H.273 (code points); ITU-R BT.2100 (PQ, HLG); PNG (W3C), 11.3.2.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial

_MAX_PROFILE_BYTES = 4_000_000  # profiles of printing presses have up to 3 MB
_HEADER, _ENTRY = 128, 12
_MAX_TAGS = 100  # lcms's own limit
# These tags contain floating-point pipelines of any length. lcms prefers them to the mandatory tables and runs them for
# every point of its grid: 30,000 stages took a minute.
_PIPELINES = tuple(b"%s%d" % (name, intent) for name in (b"D2B", b"B2D") for intent in range(4))

Vector = tuple[float, float, float]

_D65 = (0.3127, 0.329)
# Code points of primaries → x and y of white, red, green and blue, in the order of PNG's cHRM.
_PRIMARIES = {
    **dict.fromkeys((1, 2), (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)),  # BT.709 and sRGB, and unspecified ones
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),  # BT.601, 625 lines
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),  # BT.601, 525 lines
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # DCI-P3
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),  # Display P3
}
_SRGB = (1, 13)
_SRGB_GAMMA = 0.45455
_D50: Vector = (0.9642, 1.0, 0.8249)
_BRADFORD: tuple[Vector, ...] = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
# HDR is shown as Chromium does on an ordinary screen: white is twice the reference white of BT.2408, and light from
# half of that on is compressed, so that 1000 cd/m² are white, too.
_WHITE, _PEAK, _KNEE = 406.0, 1000.0, 0.5
_STEPS = 1024


def affordable(profile: bytes | None) -> bytes | None:
    """Return the profile with its pipelines disabled; None without a profile, or for one above 4 MB."""
    if not profile or len(profile) > _MAX_PROFILE_BYTES or len(profile) < _HEADER + 4:
        return None
    hidden = bytearray(profile)
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    for i in range(min(count, _MAX_TAGS)):
        at = _HEADER + 4 + i * _ENTRY
        if profile[at : at + 4] in _PIPELINES:
            hidden[at : at + 1] = b"x"  # renames the tag, so that lcms ignores it
    return bytes(hidden)


def are_known(primaries: int, transfer: int) -> bool:
    """Return whether two code points of H.273 can be made a profile."""
    return primaries in _PRIMARIES and transfer in _CURVES


def from_code_points(primaries: int, transfer: int) -> bytes | None:
    """Build the profile of two code points that are known; None for sRGB, which unspecified ones count as."""
    chromaticities, curve = _PRIMARIES[primaries], _CURVES[transfer]()
    if chromaticities == _PRIMARIES[_SRGB[0]] and curve == _CURVES[_SRGB[1]]():
        return None
    return _profile(chromaticities, curve)


def from_gamma(gamma: float, chromaticities: Sequence[float] | None) -> bytes | None:
    """Build the profile of PNG's gAMA and cHRM (x and y of white, red, green and blue); None for sRGB or nonsense.

    Without chromaticities they are sRGB's, and a gamma of 1/2.2 then stands for sRGB's curve.
    """
    if gamma <= 0 or (chromaticities is None and gamma == _SRGB_GAMMA):
        return None
    try:
        return _profile(chromaticities or _PRIMARIES[1], _power(1 / gamma))
    except (ZeroDivisionError, struct.error):  # no colours at all, or numbers beyond what a profile can hold
        return None


def _profile(chromaticities: Sequence[float], curve: bytes) -> bytes:
    xy = [chromaticities[i : i + 2] for i in range(0, 8, 2)]
    white, *primaries = ((x / y, 1.0, (1 - x - y) / y) for x, y in xy)
    # The light of each primary at its full value, so that together they give white; then seen under D50.
    shares = _times(_inverse(_transposed(primaries)), white)
    cones = [d50 / own for d50, own in zip(_times(_BRADFORD, _D50), _times(_BRADFORD, white), strict=True)]
    back = _inverse(_BRADFORD)
    tags = {b"wtpt": _xyz(_D50)}
    for name, primary, share in zip(b"rgb", primaries, shares, strict=True):
        seen = [cone * scale * share for cone, scale in zip(_times(_BRADFORD, primary), cones, strict=True)]
        tags |= {b"%cXYZ" % name: _xyz(_times(back, seen)), b"%cTRC" % name: curve}
    table, data, at = struct.pack(">I", len(tags)), b"", _HEADER + 4 + _ENTRY * len(tags)
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, at + len(data), len(value))
        data += value
    kind = struct.pack(">I4sI4s4s4s", at + len(data), b"\0\0\0\0", 0x0430_0000, b"mntr", b"RGB ", b"XYZ ")
    header = (kind.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + _xyz(_D50)[8:]
    return header.ljust(_HEADER, b"\0") + table + data


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def _parametric(kind: int, *parameters: float) -> bytes:
    return struct.pack(f">4s4xHxx{len(parameters)}i", b"para", kind, *(round(value * 65536) for value in parameters))


def _power(exponent: float) -> bytes:
    return _parametric(0, exponent)


def _sampled(light: Callable[[float], float]) -> bytes:
    """Return a curve from values of 0 to 1 to light in cd/m², compressed to what a screen can show."""
    shown = (_compressed(light(i / (_STEPS - 1)) / _WHITE) for i in range(_STEPS))
    return struct.pack(f">4s4xI{_STEPS}H", b"curv", _STEPS, *(round(65535 * value) for value in shown))


def _compressed(light: float) -> float:
    over = min(1.0, (light - _KNEE) / (_PEAK / _WHITE - _KNEE))
    return light if over <= 0 else _KNEE + (1 - _KNEE) * 3 * over / (1 + 2 * over)


def _pq(value: float) -> float:
    power = math.pow(value, 32 / 2523)
    return 10_000 * math.pow(max(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power), 8192 / 1305)


def _hlg(value: float) -> float:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = value * value / 3 if value <= 0.5 else (math.exp((value - c) / a) + b) / 12
    return _PEAK * math.pow(scene, 1.2)


# Code points of transfer functions → curves from values to light. Every worker imports this, and few need a curve.
_CURVES: Mapping[int, Callable[[], bytes]] = {
    **dict.fromkeys((1, 6, 14, 15), partial(_power, 2.4)),  # BT.709, 601 and 2020: the curve of their screens, BT.1886
    4: partial(_power, 2.2),
    5: partial(_power, 2.8),
    8: partial(_power, 1.0),
    **dict.fromkeys((2, 13), partial(_parametric, 3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),  # sRGB
    16: partial(_sampled, _pq),
    18: partial(_sampled, _hlg),
}


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> Vector:
    x, y, z = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _transposed(matrix: Sequence[Vector]) -> list[Vector]:
    return list(zip(*matrix, strict=True))


def _inverse(matrix: Sequence[Vector]) -> list[Vector]:
    a, b, c = matrix
    columns = _cross(b, c), _cross(c, a), _cross(a, b)
    determinant = sum(x * y for x, y in zip(a, columns[0], strict=True))
    return _transposed([(x / determinant, y / determinant, z / determinant) for x, y, z in columns])


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
