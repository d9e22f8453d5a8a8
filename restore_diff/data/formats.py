"""Picture formats: how a file of each is recognised by its content, its endings, and the package that reads it."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Format(NamedTuple):
    """A format of pictures. `module` reads it, Pillow where it is empty; `install` is what pip needs for it.

    `advice` instead is for formats that are not read at all.
    """

    name: str
    endings: frozenset[str]
    module: str = ""
    install: str = ""
    advice: str = ""


def _endings(text: str) -> frozenset[str]:
    return frozenset(f".{ending}" for ending in text.split())


RAW_ENDINGS = _endings(
    "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
)
FORMATS = {
    known.name: known
    for known in (
        Format("PNG", _endings("png")),
        Format("JPEG", _endings("jpg jpeg jpe jfif mpo")),
        Format("WebP", _endings("webp")),
        Format("TIFF", _endings("tif tiff")),
        Format("BMP", _endings("bmp")),
        Format("GIF", _endings("gif")),
        Format("AVIF", _endings("avif")),
        Format("HEIC", _endings("heic heif hif"), "pillow_heif", "pillow-heif"),
        Format("JPEG 2000", _endings("jp2 j2k jpx")),
        Format("PPM", _endings("ppm pgm pbm pnm")),
        Format("QOI", _endings("qoi")),
        Format("TGA", _endings("tga")),
        Format("JPEG XL", _endings("jxl"), "pillow_jxl", "'restore_diff[jxl]'"),
        Format("camera RAW", RAW_ENDINGS, "rawpy", "'restore_diff[raw]'"),
        Format("Photoshop", _endings("psd psb"), advice="save it as TIFF"),
        Format("OpenEXR", _endings("exr"), advice="save it as 16-bit TIFF"),
        Format("Radiance HDR", _endings("hdr"), advice="save it as 16-bit TIFF"),
        Format("JPEG XR", _endings("jxr wdp hdp"), advice="save it as PNG or TIFF"),
        Format("GIMP", _endings("xcf"), advice="save it as PNG or TIFF"),
    )
}
IMAGE_ENDINGS = frozenset[str]().union(*(known.endings for known in FORMATS.values() if not known.advice))
"""Files with these endings are images; one that cannot be read is a failure and not ignored."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD_BYTES = 64
SIGNATURES = (
    (PNG_SIGNATURE, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"qoif", "QOI"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"FUJIFILMCCD-RAW", "camera RAW"),
    (b"IIRO", "camera RAW"),  # Olympus
    (b"IIRS", "camera RAW"),
    (b"MMOR", "camera RAW"),
    (b"IIU\0", "camera RAW"),  # Panasonic
    (b"FOVb", "camera RAW"),  # Sigma
    (b"\0MRM", "camera RAW"),  # Minolta
    (b"II\x1a\0\0\0HEAPCCDR", "camera RAW"),  # Canon CRW
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"II\xbc", "JPEG XR"),
    (b"gimp xcf", "GIMP"),
)
BRANDS = {
    b"crx ": "camera RAW",  # Canon CR3
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIC"),
}
"""Brands of ISO base media files (ISO/IEC 14496-12, 23008-12); the first that is listed decides."""


def recognise(head: bytes) -> Format | None:
    """Return the format of a file by its first `HEAD_BYTES`; None for other files, and for TGA, which has no signature.

    A camera RAW file that begins like a TIFF file is a "TIFF".
    """
    name = next((name for signature, name in SIGNATURES if head.startswith(signature)), "")
    if head.startswith(TIFF_SIGNATURES):
        name = "camera RAW" if head[8:10] == b"CR" else "TIFF"  # Canon CR2
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        name = "WebP"
    elif head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        name = "BMP"
    elif re.match(rb"P[1-6]\s+(#|\d)", head):
        name = "PPM"
    elif head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
        if brands[0] in (b"mif1", b"msf1") and b"avif" in brands:
            brands = [b"avif"]
        name = next((BRANDS[brand] for brand in brands if brand in BRANDS), "")
    return FORMATS.get(name)


def by_ending(path: Path) -> Format | None:
    """Return the format that the ending of the name stands for."""
    ending = path.suffix.lower()
    return next((known for known in FORMATS.values() if ending in known.endings), None)


def why_not_read(known: Format) -> str:
    """Return why pictures of this format cannot be read here, with what to do; "" if they can."""
    if known.advice:
        return f"{known.name} is not read: {known.advice}"
    if known.module and find_spec(known.module) is None:
        return f"{known.name} needs another package: pip install {known.install}"
    return ""


def why_ignored(path: Path) -> str:
    """Return `why_not_read` of a file that is such a picture by name and content, else "". Raises OSError."""
    named = by_ending(path)
    if named is None or not (reason := why_not_read(named)):
        return ""
    with path.open("rb") as file:
        content = recognise(file.read(HEAD_BYTES))
    is_tiff_like = content is FORMATS["TIFF"] and named is FORMATS["camera RAW"]
    return reason if content is named or is_tiff_like else ""
