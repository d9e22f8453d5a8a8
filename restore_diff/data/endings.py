"""Whether a file ends as its format says. Imports nothing heavy."""

from pathlib import Path

from restore_diff.data.formats import PNG_SIGNATURE
from restore_diff.data.members import open_file

PNG_END = b"IEND\xae\x42\x60\x82"
JPEG_END = b"\xff\xd9"


def seems_cut_off(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP file does not end as its format says: truncated, or with something appended.

    Two reads, no decoding. Of the other formats nothing is known.
    """
    with open_file(path) as file:
        head = file.read(12)
        length = file.seek(0, 2)
        file.seek(max(0, length - len(PNG_END)))
        end = file.read()
    if head.startswith(PNG_SIGNATURE):
        return end != PNG_END
    if head.startswith(b"\xff\xd8\xff"):
        return not end.endswith(JPEG_END)
    return head.startswith(b"RIFF") and length < 8 + int.from_bytes(head[4:8], "little")
