"""Metadata of a picture, read from one file and written to another; nothing is left out without being named."""

import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from restore_diff.data.archive import open_file
from restore_diff.data.formats import PNG_SIGNATURE

ORIENTATION = 0x0112
RESOLUTION, RESOLUTION_UNIT, INCH = (282, 283), 296, 2
EXIF_DIRECTORIES = (0x8769, 0x8825)
"""Tags of the EXIF and GPS directories."""
INTEROPERABILITY = 0xA005
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
"""TIFF tags."""
# A TIFF file keeps EXIF among the tags for its storage; only these describe the picture.
DESCRIPTIVE_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 33432, *EXIF_DIRECTORIES)
STORAGE_TAGS = frozenset((*range(254, 270), *range(273, 282), 284, *range(288, 294), 317, *range(320, 348)))
STORAGE_TAGS |= {*range(512, 533), XMP, IPTC, PHOTOSHOP, ICC}
"""Tags of a TIFF file for its own pixels, which EXIF of another file must not set (Adobe TIFF 6.0)."""
EXIF_PREFIX = b"Exif\0\0"
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))([1-8])""")
GAIN_MAP, ISO_GAIN_MAP = b"http://ns.adobe.com/hdr-gain-map/", b"urn:iso:std:iso:ts:21496"
IPTC_RESOURCE, THUMBNAIL_RESOURCES = 1028, (1033, 1036)
"""Photoshop image resources (Adobe Photoshop File Formats Specification)."""
MAX_SEGMENT = 65533
"""Bytes that a segment of a JPEG file holds after its length (ITU-T T.81, B.1.1.4)."""
COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM")
"""PNG chunks that say what the colours mean (W3C PNG specification, 3rd edition)."""
SRGB_CHUNKS = (struct.pack(">I", 45455), struct.pack(">8I", *(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)))
SRGB_CODES = ((1, 13), (1, 1), (1, 6), (1, 2), (2, 2), (2, 13), (5, 6), (6, 6))
"""Code points for colour primaries and transfer (ITU-T H.273) that are shown as sRGB, or not given."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture."""

    icc_profile: bytes = b""
    exif: bytes = b""
    """A TIFF structure without prefix and without orientation, because the samples are upright."""
    xmp: bytes = b""
    photoshop: bytes = b""
    """Image resources, IPTC among them, without thumbnails."""
    comment: str = ""
    texts: tuple[tuple[str, str], ...] = ()
    """Key and text, of PNG."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch in x and y; None if the file states none or states it in EXIF."""
    colours: tuple[tuple[bytes, bytes], ...] = ()
    """Kind and content of PNG chunks among COLOUR_CHUNKS."""
    bits: int = 0
    """Bits per sample that the file states, if more than 8."""
    lost: tuple[str, ...] = ()
    """Parts of the file that were not read."""


STRIPPED = {"exif": b"", "xmp": b"", "photoshop": b"", "comment": "", "texts": ()}
"""Changes to Metadata that remove what is known about the photographer: camera, place, time, author, text."""
NAMES = {
    "icc_profile": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "photoshop": "IPTC",
    "comment": "comment",
    "texts": "text",
    "dpi": "resolution",
    "colours": "colour description",
}
HELD = {
    "PNG": {"icc_profile", "exif", "xmp", "comment", "texts", "dpi", "colours"},
    "JPEG": {"icc_profile", "exif", "xmp", "photoshop", "comment", "dpi"},
    "TIFF": {"icc_profile", "exif", "xmp", "photoshop", "dpi"},
    "WEBP": {"icc_profile", "exif", "xmp"},
    "AVIF": {"icc_profile", "exif", "xmp"},
    "HEIF": {"icc_profile", "exif", "xmp", "colours"},
    "BMP": {"dpi"},
}
"""Fields of Metadata that each format holds."""


def fit(metadata: Metadata, kind: str) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that are written to a file of a format, and the names of those left out."""
    fields = {name: getattr(metadata, name) for name in NAMES if getattr(metadata, name)}
    if kind == "JPEG" and "comment" not in fields and "Comment" in (texts := dict(metadata.texts)):
        fields["comment"] = texts.pop("Comment")
        fields["texts"] = tuple(texts.items())
    colours = dict(metadata.colours)
    if kind != "PNG" and (metadata.icc_profile or shows_srgb(metadata.colours)):
        fields.pop("colours", None)  # the picture looks the same without it
    if "dpi" in fields and "dpi" not in HELD[kind] and "exif" in HELD[kind]:
        if "exif" not in fields:
            fields["exif"] = _exif_of_resolution(fields.pop("dpi"))
        elif RESOLUTION[0] in _tags(fields["exif"]):
            fields.pop("dpi")
    held = HELD[kind] - ({"colours"} if b"cICP" not in colours and kind == "HEIF" else set())
    left_out = {name: NAMES[name] for name in fields if name not in held and fields[name]}
    if kind == "JPEG":
        for name, header in (("exif", 6), ("xmp", 29), ("photoshop", 14), ("comment", 0)):
            if len(_bytes(fields.get(name, b""))) + header > MAX_SEGMENT:
                left_out[name] = f"{NAMES[name]} (longer than 64 KB)"
        if max(fields.get("dpi", (0, 0))) > 65535:
            left_out["dpi"] = NAMES["dpi"]
    return {name: value for name, value in fields.items() if name not in left_out and value}, list(left_out.values())


def _exif_of_resolution(dpi: tuple[float, float]) -> bytes:
    block = Image.Exif()
    block[RESOLUTION[0]], block[RESOLUTION[1]], block[RESOLUTION_UNIT] = *dpi, INCH
    return block.tobytes().removeprefix(EXIF_PREFIX)


def _tags(block: bytes) -> list[int]:
    return [tag for tag, _, _ in _entries(block)[2]]


def shows_srgb(colours: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Return whether colours described by these PNG chunks look the same without them, as sRGB."""
    found = dict(colours)
    if b"cICP" in found:
        return tuple(found[b"cICP"][:2]) in SRGB_CODES
    return b"sRGB" in found or all(content in SRGB_CHUNKS for content in found.values())


def read_orientation(image: Image.Image) -> int:
    """Return the orientation 1..8 of an image with its present size (CIPA DC-008, section 4.6.4).

    EXIF is taken before XMP.
    """
    if image.format in ("HEIF", "JXL") and not getattr(image, "jpeg", False):
        return 1  # the decoder has turned it
    if image.format == "TIFF" and ORIENTATION in image.tag_v2:  # type: ignore[attr-defined]
        return 1  # as before
    if orientation := upright_exif(_exif_block(image), [])[0]:
        return orientation
    found = XMP_ORIENTATION.search(_xmp(image))
    return int(found[2]) if found else 1


def read_metadata(image: Image.Image, path: Path) -> tuple[int, Metadata]:
    """Return the orientation 1..8 of the samples of a loaded image, and the metadata without it.

    A damaged field costs no other.
    """
    lost, xmp = [], _xmp(image)
    if image.format == "TIFF":  # or BigTIFF, turned by the decoder
        orientation, exif = 1, _described(image.getexif(), image.tag_v2, lost)  # type: ignore[attr-defined]
    else:
        orientation, exif = read_orientation(image), upright_exif(_exif_block(image), lost)[1]
    return orientation, Metadata(
        icc_profile=_content(image, "icc_profile"),
        exif=exif,
        xmp=b"" if GAIN_MAP in xmp else XMP_ORIENTATION.sub(rb"\g<1>1", xmp),  # the output has no such map
        photoshop=_photoshop(image),
        comment=_comment(image),
        texts=_texts(image),
        dpi=_dpi(image),
        colours=_colours(image, path),
        lost=tuple(lost + _other_parts(image, xmp)),
    )


def upright_exif(block: bytes, lost: list[str]) -> tuple[int, bytes]:
    """Return the orientation in an EXIF block, 0 for none, and the block without it, else byte for byte.

    The link to the thumbnail, which shows the degraded picture, is removed too.
    """
    try:
        order, start, entries = _entries(block)
    except (struct.error, ValueError):
        lost += ["EXIF (damaged)"] if block else []
        return 0, b""
    orientation, kept = 0, bytearray()
    for tag, kind, rest in entries:
        if tag == ORIENTATION:
            (orientation,) = struct.unpack(f"{order}{'I' if kind == 4 else 'H'}", rest[4 : 8 if kind == 4 else 6])
        else:
            kept += struct.pack(f"{order}HH8s", tag, kind, rest)
    changed, end = bytearray(block), start + 2 + 12 * len(entries)
    kept = struct.pack(f"{order}H", len(kept) // 12) + kept
    changed[start : end + 4] = kept + bytes(len(changed[start : end + 4]) - len(kept))
    return (orientation if orientation in range(1, 9) else 0), bytes(changed)


def _entries(block: bytes) -> tuple[str, int, list[tuple[int, int, bytes]]]:
    """Return byte order, place and entries (tag, type, count and value) of the first directory of an EXIF block."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("not a TIFF structure")
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    return order, start, [struct.unpack_from(f"{order}HH8s", block, start + 2 + 12 * index) for index in range(count)]


def tiff_directory(fields: Mapping[str, Any], lost: list[str]) -> ImageFileDirectory_v2:
    """Return the tags of a TIFF file that hold these fields of Metadata; add the EXIF tags left out to `lost`."""
    directory = ImageFileDirectory_v2()
    if "exif" in fields:
        exif = Image.Exif()
        exif.load(fields["exif"])
        tags = [tag for tag in _tags(fields["exif"]) if tag not in STORAGE_TAGS]
        values = {tag: exif[tag] if _can_get(exif, tag) else None for tag in tags}
        directory.update(_intact(exif, values, lost))
    for tag, name in ((XMP, "xmp"), (PHOTOSHOP, "photoshop"), (ICC, "icc_profile")):
        if name in fields:
            directory[tag] = fields[name]
            directory.tagtype[tag] = 7 if tag != XMP else 1
    if iptc := dict(_resources(fields.get("photoshop", b""))).get(IPTC_RESOURCE):
        directory[IPTC] = iptc
        directory.tagtype[IPTC] = 7
    if "dpi" in fields and RESOLUTION[0] not in directory:
        directory.update(dict(zip(RESOLUTION, fields["dpi"], strict=True)))
        directory[RESOLUTION_UNIT] = INCH
    return directory


def png_chunks(fields: Mapping[str, Any]) -> bytes:
    """Return PNG chunks that hold these fields of Metadata, to be written before the pixels."""
    chunks = [png_chunk(kind, content) for kind, content in fields.get("colours", ())]
    if "icc_profile" in fields:
        chunks.append(png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(fields["icc_profile"])))
    if "dpi" in fields:
        per_metre = (min(round(dots / 0.0254), 2**31 - 1) for dots in fields["dpi"])
        chunks.append(png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if "exif" in fields:
        chunks.append(png_chunk(b"eXIf", fields["exif"]))
    texts = [("XML:com.adobe.xmp", fields["xmp"])] if "xmp" in fields else []
    texts += [("Comment", fields["comment"])] if "comment" in fields else []
    for key, text in [*texts, *fields.get("texts", ())]:
        chunks.append(png_chunk(b"iTXt", key.encode("latin-1", "replace") + bytes(5) + _bytes(text)))
    return b"".join(chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def walk_png(path: Path, contents: tuple[bytes, ...] = ()) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG file; content is empty except for kinds in `contents`."""
    with open_file(path) as file:
        file.seek(len(PNG_SIGNATURE))
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            wanted = kind in contents and length < 2**16
            yield kind, file.read(length) if wanted else b""
            file.seek(4 if wanted else length + 4, 1)


def photoshop_segment(resources: bytes) -> bytes:
    """Return the APP13 segment of a JPEG file."""
    content = b"Photoshop 3.0\0" + resources
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def _bytes(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _content(image: Image.Image, name: str) -> bytes:
    """Return bytes that Pillow has read; b"" if a text of a PNG file has this name, which replaces them."""
    value = image.info.get(name)
    return value if isinstance(value, bytes) else b""


def _exif_block(image: Image.Image) -> bytes:
    """Return the EXIF block; of a PNG file by ImageMagick, from the text that it writes."""
    block = _content(image, "exif")
    if not block and isinstance(profile := image.info.get("Raw profile type exif"), str):
        try:
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            block = b"damaged"
    while block.startswith(EXIF_PREFIX):
        block = block[len(EXIF_PREFIX) :]
    if not block or block.startswith((b"II*\0", b"MM\0*")):
        return block
    return b"" if "exif" in getattr(image, "text", {}) else block  # Pillow takes a text of this name for the block


def _xmp(image: Image.Image) -> bytes:
    return _content(image, "xmp") or _bytes(image.info.get("XML:com.adobe.xmp") or b"")


def _can_get(tags: Any, tag: int) -> bool:
    try:
        return tags[tag] is not None
    except Exception:  # Pillow decodes values when they are asked for, and raises anything
        return False


def read_raw_metadata(path: Path) -> Metadata:
    """Return EXIF of a camera RAW file that is built like a TIFF file."""
    exif, lost = Image.Exif(), []
    with open_file(path) as file:
        try:
            exif.load_from_fp(file)
        except Exception:  # Pillow raises anything for other structures
            return Metadata(lost=("EXIF",))
        return Metadata(exif=_described(exif, exif, lost), lost=tuple(lost))


def _described(exif: Image.Exif, tags: Any, lost: list[str]) -> bytes:
    """Return an EXIF block with the tags of a TIFF file that describe the picture."""
    wanted = {tag: tags[tag] for tag in DESCRIPTIVE_TIFF_TAGS if tag in tags and _can_get(tags, tag)}
    block = Image.Exif()
    for tag, value in _intact(exif, wanted, lost).items():
        block[tag] = value
    return block.tobytes().removeprefix(EXIF_PREFIX) if len(block) else b""


def _intact(exif: Image.Exif, tags: Mapping[int, Any], lost: list[str]) -> dict[int, Any]:
    """Return the tags that can be written, with their directories; name the others, and those without value."""
    intact, bad = {}, []
    for tag, value in tags.items():
        if tag in EXIF_DIRECTORIES:
            inner = _directory(exif, tag)
            good = {key: item for key, item in inner.items() if _can_write({tag: {key: item}})}
            bad += [key for key in inner if key not in good]
            intact |= {tag: good} if good else {}
        elif value is not None and _can_write({tag: value}):
            intact[tag] = value
        else:
            bad.append(tag)
    if bad:
        lost.append(f"EXIF tags {', '.join(f'0x{tag:04x}' for tag in bad)} (damaged)")
    return intact


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        found = dict(exif.get_ifd(tag))
        if INTEROPERABILITY in found:
            found[INTEROPERABILITY] = dict(exif.get_ifd(INTEROPERABILITY))
    except Exception:  # as in _can_get
        return {}
    return found


def _can_write(tags: Mapping[int, Any]) -> bool:
    directory = ImageFileDirectory_v2()
    try:
        for tag, value in tags.items():
            directory[tag] = value
        directory.tobytes(0)
    except Exception:  # Pillow raises anything for values that do not fit their type
        return False
    return True


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the resolution that a file states outside of EXIF."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        is_given = RESOLUTION[0] in tags and _can_get(tags, RESOLUTION_UNIT) and tags[RESOLUTION_UNIT] in (INCH, 3)
    else:
        is_given = image.format in ("PNG", "BMP", "JPEG2000") or image.info.get("jfif_unit") in (1, 2)
    dpi = image.info.get("dpi") if is_given else None
    if not isinstance(dpi, tuple) or not all(math.isfinite(value) and value > 0 for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _photoshop(image: Image.Image) -> bytes:
    """Return the Photoshop resources of a JPEG or TIFF file without thumbnails; IPTC of TIFF becomes one of them."""
    blocks: list[bytes] = []
    iptc = b""
    if image.format in ("JPEG", "MPO"):
        segments = getattr(image, "applist", [])
        blocks = [content for name, content in segments if name == "APP13" and content.startswith(b"Photoshop 3.0\0")]
        blocks = [block.removeprefix(b"Photoshop 3.0\0") for block in blocks]
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        blocks, iptc = [_stored(tags, PHOTOSHOP)], _stored(tags, IPTC)
    found = [(number, data) for number, data in _resources(b"".join(blocks)) if number not in THUMBNAIL_RESOURCES]
    if iptc and IPTC_RESOURCE not in dict(found):
        found.append((IPTC_RESOURCE, iptc))
    return b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2) for number, data in found
    )


def _stored(tags: Any, tag: int) -> bytes:
    """Return the bytes of a tag; some programs declare IPTC as an array of 32-bit numbers."""
    value = tags[tag] if tag in tags and _can_get(tags, tag) else b""
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        order = getattr(tags, "_endian", "<")
        return struct.pack(f"{order}{len(value)}I", *value).rstrip(b"\0")
    return value if isinstance(value, bytes) else b""


def _resources(block: bytes) -> list[tuple[int, bytes]]:
    """Return number and content of each image resource, as far as they are intact."""
    found, at = [], 0
    while block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        (number,) = struct.unpack_from(">H", block, at + 4)
        start = at + 6 + (block[at + 6] // 2 + 1) * 2  # after the name, which is padded to even length
        if start + 4 > len(block):
            break
        (length,) = struct.unpack_from(">I", block, start)
        if start + 4 + length > len(block):
            break
        found.append((number, block[start + 4 : start + 4 + length]))
        at = start + 4 + length + length % 2
    return found


def _comment(image: Image.Image) -> str:
    if image.format not in ("JPEG", "MPO", "GIF"):
        return ""
    comment = image.info.get("comment") or b""
    try:
        return comment.decode() if isinstance(comment, bytes) else str(comment)
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """Return the text chunks of a PNG file, except EXIF and XMP, which are fields of their own."""
    if image.format != "PNG":
        return ()
    found = getattr(image, "text", {})
    return tuple(
        (key, str(text))
        for key, text in found.items()
        if key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type")
    )


def _colours(image: Image.Image, path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """Return the colour chunks of a PNG file; of HEIC and AVIF, the code points of the nclx box as a cICP chunk."""
    if image.format == "PNG":
        return tuple((kind, content) for kind, content in walk_png(path, COLOUR_CHUNKS) if kind in COLOUR_CHUNKS)
    if image.format in ("HEIF", "AVIF") and not image.info.get("icc_profile"):
        with open_file(path) as file:
            found = re.search(rb"colrnclx(.{4})", file.read(2**16), re.DOTALL)
        if found:
            primaries, transfer = struct.unpack(">HH", found[1])
            if (primaries, transfer) not in SRGB_CODES and max(primaries, transfer) < 256:
                return ((b"cICP", bytes([primaries, transfer, 0, 1])),)
    return ()


def _other_parts(image: Image.Image, xmp: bytes) -> list[str]:
    """Return the names of parts that are not read."""
    segments = [content for _, content in getattr(image, "applist", [])]
    kinds = [str(kind).lower() for kind in image.info.get("aux") or ()]
    found: list[str] = []
    if GAIN_MAP in xmp or any("gainmap" in k for k in kinds) or any(s.startswith(ISO_GAIN_MAP) for s in segments):
        found.append("gain map")
    elif image.format == "MPO":
        found.append("second picture in the JPEG file")
    found += image.info.get("lost") or ()
    if image.format == "TIFF":
        extra = image.tag_v2.get(277, 1) - len(image.getbands())  # type: ignore[attr-defined]
        found += [f"{extra} extra channels"] if extra > 0 else []
    if image.info.get("depth_images"):
        found.append("depth map")
    if any(content.startswith(b"http://ns.adobe.com/xmp/extension/") for content in segments):
        found.append("extended XMP")
    return found
