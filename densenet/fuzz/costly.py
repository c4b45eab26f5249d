"""The known costly files by name, one per way of being costly."""

from collections.abc import Callable, Mapping
from functools import partial

from densenet.fuzz.files import avif, bmp, exif, gif, icc, jpeg, png, tiff, webp

LIMIT = 10 * 1024 * 1024  # bytes: the maximum size of a request, and therefore of a file


def _icc_tiff(profile: Callable[[], bytes], mode: str = "CMYK") -> bytes:
    return tiff.with_profile(profile(), mode)


def _icc_jpeg(profile: Callable[[], bytes], mode: str = "CMYK") -> bytes:
    return jpeg.with_profile(profile(), mode)


def _with(place: Callable[[bytes], bytes], block: Callable[[], bytes]) -> bytes:
    return place(block())


def _strips_of(compression: int, name: str) -> bytes:
    return tiff.many_small_strips(compression, tiff.saved_strip(name))


def _multi_picture(count: int = 4000) -> bytes:
    index = [tiff.numbers(0xB001, tiff.LONG, count), tiff.Entry(0xB002, tiff.UNDEFINED, 16 * count, bytes(16 * count))]
    return jpeg.multi_picture(tiff.tiff(index))


_MAX_STAGES = partial(icc.many_stages, 150_000)
_THREE = (0x11, 0x11, 0x11)
_FOUR = (0x11, 0x11, 0x11, 0x11)
_ALPHA = tiff.numbers(tiff.EXTRA_SAMPLES, tiff.SHORT, 2)
_FLOAT = tiff.numbers(tiff.SAMPLE_FORMAT, tiff.SHORT, 3)

_BMP: dict[str, Callable[[], bytes]] = {
    "bmp-early-end-of-line": bmp.early_end_of_line,
    "bmp-four-bit-runs": bmp.four_bit_runs,
    "bmp-four-bit-pixels": bmp.four_bit_pixels,
    "bmp-idle-runs": bmp.idle_runs,
    "bmp-idle-deltas": bmp.idle_deltas,
    "bmp-tall-runs": bmp.tall_runs,
}
_JPEG: dict[str, Callable[[], bytes]] = {
    "jpeg-exif-segments": jpeg.many_exif_segments,
    "jpeg-exif-segments-empty": partial(jpeg.many_exif_segments, 0),
    "jpeg-comments": jpeg.many_comments,
    "jpeg-app-segments": jpeg.many_app_segments,
    "jpeg-profile-segments": jpeg.many_profiles,
    "jpeg-quantization-tables": jpeg.many_quantization_tables,
    "jpeg-huffman-tables": jpeg.many_huffman_tables,
    "jpeg-frames": jpeg.many_frames,
    "jpeg-photoshop-resources": jpeg.many_photoshop_resources,
    "jpeg-scan-headers": jpeg.many_scan_headers,
    "jpeg-restart-markers": jpeg.many_restart_markers,
    "jpeg-padding": jpeg.padding,
    "jpeg-junk": jpeg.junk,
    "jpeg-stuffed": jpeg.stuffed,
    "jpeg-scans": jpeg.end_of_band_scans,
    "jpeg-scans-of-nothing": partial(jpeg.scans_without_data, jpeg.PROGRESSIVE, _THREE),
    "jpeg-scans-of-nothing-arithmetic": partial(jpeg.scans_without_data, jpeg.ARITHMETIC_PROGRESSIVE, _THREE),
    "jpeg-nothing": partial(jpeg.without_data, sampling=_THREE),
    "jpeg-nothing-inks": partial(jpeg.without_data, sampling=_FOUR),
    "jpeg-nothing-progressive": partial(jpeg.without_data, kind=jpeg.PROGRESSIVE, sampling=_FOUR),
    "jpeg-nothing-arithmetic": partial(jpeg.without_data, kind=jpeg.ARITHMETIC, sampling=_THREE),
    "jpeg-nothing-lossless": partial(jpeg.without_data, kind=jpeg.LOSSLESS, sampling=_THREE),
    "jpeg-restarts": jpeg.restarts,
    "jpeg-missing-restarts": jpeg.missing_restarts,
    "jpeg-uneven-sampling": jpeg.uneven_sampling,
    "jpeg-narrow": jpeg.narrow,
    "jpeg-narrow-arithmetic": partial(jpeg.narrow, jpeg.ARITHMETIC),
    "jpeg-icc-stages": partial(_icc_jpeg, icc.many_stages),
    "jpeg-icc-most-stages": partial(_icc_jpeg, _MAX_STAGES),
    "jpeg-icc-segments": partial(_icc_jpeg, icc.many_segments),
    "jpeg-icc-stages-colour": partial(_icc_jpeg, partial(icc.colour_stages), "RGB"),
    "jpeg-icc-points-colour": partial(_icc_jpeg, partial(icc.screen, 1_900_000), "RGB"),
    "jpeg-icc-points-grey": partial(_icc_jpeg, partial(icc.screen, 1_900_000, grey=True), "L"),
    "jpeg-icc-large-table-colour": partial(_icc_jpeg, icc.large_colour_table, "RGB"),
    "jpeg-without-end": jpeg.without_end,
    "jpeg-exif-rationals": partial(_with, jpeg.with_exif, exif.sideways_rationals),
    "jpeg-exif-resolution": partial(_with, jpeg.with_exif, exif.rational_resolution),
    "jpeg-exif-nested": partial(_with, jpeg.with_exif, exif.nested),
    "jpeg-multi-picture": _multi_picture,
}
_PNG: dict[str, Callable[[], bytes]] = {
    "png-chunks": png.many_chunks,
    "png-chunks-behind": png.many_chunks_behind,
    "png-empty-data": png.many_empty_data,
    "png-data": png.many_data,
    "png-nameless-texts": png.nameless_texts,
    "png-named-texts": png.named_texts,
    "png-international-texts": png.international_texts,
    "png-profiles": png.many_profiles,
    "png-damaged-chunks": png.damaged_chunks,
    "png-large-of-code-points": partial(png.large, extra=png.chunk(b"cICP", bytes((9, 16, 0, 1)))),
    "png-large-grey-of-gamma": partial(png.large, png.GREY, depth=16, extra=png.chunk(b"gAMA", bytes((0, 1, 0, 0)))),
    "png-frame-controls": png.many_frame_controls,
    "png-long-palette": png.long_palette,
    "png-tall": png.tall,
    "png-tall-grey": partial(png.tall, png.GREY),
    "png-large": png.large,
    "png-large-16-bit": partial(png.large, depth=16),
    "png-large-grey-16-bit": partial(png.large, png.GREY, depth=16),
    "png-large-interlaced": partial(png.large, interlaced=True),
    "png-interlaced-column": png.interlaced_column,
    "png-exif-rationals": partial(_with, png.with_exif, exif.sideways_rationals),
    "png-exif-orientation": partial(_with, png.with_exif, exif.rational_orientation),
    "png-exif-shared": partial(_with, png.with_exif, exif.shared_values),
    "png-exif-nested": partial(_with, png.with_exif, exif.nested),
    "png-exif-text": partial(_with, png.with_exif_as_text, partial(exif.sideways_rationals, 550_000)),
}
_GIF: dict[str, Callable[[], bytes]] = {
    "gif-comments": gif.comments,
    "gif-comment-blocks": gif.comment_blocks,
    "gif-application-blocks": gif.application_blocks,
    "gif-graphic-controls": gif.graphic_controls,
    "gif-frames": gif.many_frames,
    "gif-image-blocks": gif.image_blocks,
    "gif-clear-codes": gif.clear_codes,
    "gif-large": gif.large,
    "gif-large-interlaced": partial(gif.large, interlaced=True),
    "gif-beyond-the-screen": gif.beyond_the_screen,
    "gif-much-beyond-the-screen": gif.much_beyond_the_screen,
}
_WEBP: dict[str, Callable[[], bytes]] = {
    "webp-lossless": webp.lossless,
    "webp-lossless-wide": webp.wide_lossless,
    "webp-lossy": webp.lossy,
    "webp-large-canvas": webp.large_canvas,
    "webp-huge-canvas": webp.huge_canvas,
    "webp-frames": webp.many_frames,
    "webp-chunks": webp.many_chunks,
    "webp-chunks-in-a-frame": webp.many_chunks_in_a_frame,
    "webp-exif-rationals": partial(_with, webp.with_exif, exif.sideways_rationals),
    "webp-exif-nested": partial(_with, webp.with_exif, exif.nested),
}
_TIFF: dict[str, Callable[[], bytes]] = {
    "tiff-oversized-tiles": tiff.oversized_tiles,
    "tiff-oversized-tiles-more": partial(tiff.oversized_tiles, 14_000),
    "tiff-oversized-tile": tiff.one_oversized_tile,
    "tiff-contradicting-tiles": tiff.contradicting_tiles,
    "tiff-contradicting-bits": partial(tiff.contradicting_tag, tiff.BITS),
    "tiff-oversized-strip": tiff.oversized_strip,
    "tiff-byte-offsets": tiff.byte_offsets,
    "tiff-wide-rows": tiff.wide_rows,
    "tiff-overlapping-strips": tiff.overlapping_strips,
    "tiff-rational-offsets": tiff.rational_offsets,
    "tiff-rational-bits": partial(tiff.rational_tag, tiff.BITS),
    "tiff-rational-sample-format": partial(tiff.rational_tag, tiff.SAMPLE_FORMAT),
    "tiff-rational-extra-samples": partial(tiff.rational_tag, tiff.EXTRA_SAMPLES),
    "tiff-rational-colours": partial(tiff.rational_tag, tiff.COLOUR_MAP, photometric=tiff.PALETTE),
    "tiff-rational-resolution": partial(tiff.rational_tag, tiff.X_RESOLUTION),
    "tiff-rational-orientation": partial(tiff.rational_tag, tiff.ORIENTATION),
    "tiff-short-sample-format": partial(tiff.short_tag, tiff.SAMPLE_FORMAT),
    "tiff-short-bits": partial(tiff.short_tag, tiff.BITS),
    "tiff-tags": tiff.many_tags,
    "tiff-tags-of-one-value": partial(tiff.many_tags, size=9_000_000),
    "tiff-large-directory": tiff.large_directory,
    "tiff-directories": tiff.many_directories,
    "tiff-nested-rationals": tiff.nested_rationals,
    "tiff-jpeg-strips": tiff.jpeg_strips,
    "tiff-small-strips-deflate": partial(_strips_of, tiff.DEFLATE, "tiff_adobe_deflate"),
    "tiff-small-strips-lzw": partial(_strips_of, tiff.LZW, "tiff_lzw"),
    "tiff-small-strips-jpeg": partial(_strips_of, tiff.JPEG, "jpeg"),
    "tiff-small-strips-lzma": partial(_strips_of, tiff.LZMA, "lzma"),
    "tiff-small-strips-zstd": partial(_strips_of, tiff.ZSTD, "zstd"),
    "tiff-fax": tiff.fax,
    "tiff-large": partial(tiff.large, (8, 8, 8), tiff.RGB),
    "tiff-large-16-bit": partial(tiff.large, (16, 16, 16, 16), tiff.RGB, extra=[_ALPHA]),
    "tiff-large-inks": partial(tiff.large, (8, 8, 8, 8), tiff.CMYK),
    "tiff-large-lab": partial(tiff.large, (8, 8, 8), tiff.LAB),
    "tiff-large-float": partial(tiff.large, (32,), tiff.BLACK_IS_ZERO, extra=[_FLOAT]),
    "tiff-large-grey-16-bit": partial(tiff.large, (16,), tiff.BLACK_IS_ZERO),
    "tiff-large-luma": tiff.large_luma,
    "tiff-tall": tiff.tall,
    "tiff-tall-float": tiff.tall_float,
    "tiff-icc-stages": partial(_icc_tiff, icc.many_stages),
    "tiff-icc-most-stages": partial(_icc_tiff, _MAX_STAGES),
    "tiff-icc-segments": partial(_icc_tiff, icc.many_segments),
    "tiff-icc-large-table": partial(_icc_tiff, icc.large_table),
    "tiff-icc-padded": partial(_icc_tiff, icc.padded),
    "tiff-icc-stages-colour": partial(_icc_tiff, _MAX_STAGES, "RGB"),
    "tiff-icc-stages-grey": partial(_icc_tiff, _MAX_STAGES, "L"),
}
_AVIF: dict[str, Callable[[], bytes]] = {
    "avif-grid": avif.grid,
    "avif-grid-of-noise": partial(avif.grid, noise=True),
    "avif-items": avif.many_items,
    "avif-larger-than-it-says": avif.of_another_size,
    "avif-large": avif.large,
    "avif-exif-rationals": partial(_with, avif.with_exif, exif.sideways_rationals),
}

COSTLY: Mapping[str, Callable[[], bytes]] = _BMP | _JPEG | _PNG | _GIF | _WEBP | _TIFF | _AVIF
"""Deterministic builders by name. Every file is smaller than LIMIT."""
