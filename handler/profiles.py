"""Limit the cost of ICC profiles: remove what would make lcms slow from a profile embedded in an image.

Source: ICC.1:2022, sections 7.3 (tag table), 9.2.34 ff. (D2B and B2D tags), 10.16 (multiProcessElements).
"""

import struct

_MAX_PROFILE_BYTES = 4_000_000  # profiles of printing presses have up to 3 MB
_HEADER, _ENTRY = 128, 12
_MAX_TAGS = 100  # lcms's own limit
# These tags contain floating-point pipelines of any length. lcms prefers them to the mandatory tables and runs them for
# every point of its grid: 30,000 stages took a minute.
_PIPELINES = tuple(b"%s%d" % (name, intent) for name in (b"D2B", b"B2D") for intent in range(4))


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
