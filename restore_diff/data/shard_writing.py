"""Pairs of files into a folder of tar files, whose index and names give the same order as the files."""

import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from restore_diff.data.archive import num_bytes, open_file
from restore_diff.data.names import DataError
from restore_diff.data.pairs import PairList, find_pairs
from restore_diff.files import printable


def write_shards(pairs: PairList, out: Path, pairs_per_shard: int) -> int:
    """`out`/00000.tar and so on, with input/ and target/, or clean photographs alone, and an index; how many tar files.

    The files are copied byte for byte, a clean one that several pairs share once, so the same pairs give the same tar
    files. DataError where `out` exists, for joined data sets, and where the names could not be paired again; then
    nothing is left behind.
    """
    if out.exists():
        raise DataError(f"{printable(out)}: exists already; name a new folder, nothing is overwritten")
    if pairs.weights or any(pair.weather for pair in pairs.pairs):
        raise DataError(f"{pairs.name} joins data sets or renders weather: write its parts one by one, and join those")
    starts = range(0, len(pairs.pairs), pairs_per_shard)
    members = _members(pairs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shards-", dir=out.parent) as scratch:
        part = Path(scratch) / "shards"
        part.mkdir()
        for number, start in enumerate(starts):
            with tarfile.open(part / f"{number:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
                for pair in pairs.pairs[start : start + pairs_per_shard]:
                    for path in (pair.clean, pair.degraded):
                        if path is not None and path in members:
                            _add(archive, members.pop(path), path)
        _require_same(pairs, find_pairs(str(part), "train", Path()), out)
        part.rename(out)
    return len(starts)


def _members(pairs: PairList) -> dict[Path, str]:
    """The name in the tar file of each file."""
    is_shared = len({pair.clean for pair in pairs.pairs}) < len(pairs.pairs)
    members: dict[Path, str] = {}
    for pair in pairs.pairs:
        clean = str(PurePosixPath(pair.name).with_name(pair.clean.stem)) if is_shared else pair.name
        folder = "" if pair.degraded is None else "target/"
        members.setdefault(pair.clean, f"{folder}{clean}{pair.clean.suffix}")
        if pair.degraded is not None:
            members[pair.degraded] = f"input/{pair.name}{pair.degraded.suffix}"
    return members


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.size = num_bytes(path)
    with open_file(path) as file:
        archive.addfile(member, file)


def _require_same(pairs: PairList, written: PairList, out: Path) -> None:
    """That the tar files hold these pairs, by these names, which share their clean images in the same way."""
    if _shape(pairs) != _shape(written):
        rule = "give each pair a name of its own, and its clean image the same one"
        raise DataError(f"{printable(out)}: not written, the pairs of {pairs.name} cannot be told by name; {rule}")


def _shape(pairs: PairList) -> list[tuple[str, bool, int]]:
    """Name, whether there is a degraded image, and the first pair with the same clean one."""
    first: dict[Path, int] = {}
    return [(p.name, p.degraded is None, first.setdefault(p.clean, at)) for at, p in enumerate(pairs.pairs)]
