"""Which files are images, by name and by content. Imports nothing heavy."""

from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""Names that promise an image which can be read."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIGNATURES = (PNG_SIGNATURE, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")


def is_image(path: Path) -> bool:
    """Whether the content of a regular file, not its name, starts like an accepted image format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(16)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return is_webp or is_bmp or head.startswith(SIGNATURES)
