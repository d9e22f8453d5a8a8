"""Which files are images, by name and by content. Imports nothing heavy."""

from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""Names that promise an image which can be read."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIGNATURES = (PNG_SIGNATURE, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
PNG_END = b"IEND\xae\x42\x60\x82"
JPEG_END = b"\xff\xd9"


def is_image(path: Path) -> bool:
    """Whether the content of a regular file, not its name, starts like an accepted image format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(16)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return is_webp or is_bmp or head.startswith(SIGNATURES)


def seems_cut_off(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file does not end as its format says: truncated, or with something appended.

    Two reads, no decoding. Of the other formats nothing is known.
    """
    with path.open("rb") as file:
        head = file.read(12)
        length = file.seek(0, 2)
        file.seek(max(0, length - len(PNG_END)))
        end = file.read()
    if head.startswith(PNG_SIGNATURE):
        return end != PNG_END
    if head.startswith(b"\xff\xd8\xff"):
        return not end.endswith(JPEG_END)
    return head.startswith(b"RIFF") and length < 8 + int.from_bytes(head[4:8], "little")
