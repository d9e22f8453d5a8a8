"""Files that equal each other byte for byte. Only those of equal length are read."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from restore_diff.data.finding import PairList
from restore_diff.data.members import num_bytes, open_file


def copies_of(files: Iterable[Path], among: Iterable[Path]) -> set[Path]:
    """Those of `among` whose content is that of one of `files`; a file is a copy of itself."""
    lengths, suspects = ({path: num_bytes(path) for path in set(paths)} for paths in (files, among))
    common = set(lengths.values()) & set(suspects.values())
    digests = {_digest(path) for path, length in lengths.items() if length in common}
    return {path for path, length in suspects.items() if length in common and _digest(path) in digests}


def shared_clean_images(train: PairList, test: PairList) -> list[str]:
    """Names of the test pairs whose clean file is, byte for byte, a clean file of the training set."""
    shared = copies_of((pair.clean for pair in train.pairs), (pair.clean for pair in test.pairs))
    return [pair.name for pair in test.pairs if pair.clean in shared]


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").digest()
