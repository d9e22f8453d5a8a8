"""A folder of tar files as a data set: the pairs in them by their names, wherever among the files they lie."""

from pathlib import Path
from typing import Literal

from restore_diff.data.errors import DataError
from restore_diff.data.formats import SUFFIXES
from restore_diff.data.listing import first_names
from restore_diff.data.members import refresh_index
from restore_diff.data.names import PairPath, match_by_habit, side_and_name
from restore_diff.files import printable

Side = Literal["degraded", "clean"]


def pairs_in_tars(folder: Path) -> tuple[PairPath, ...]:
    """The pairs in all tar files of a folder, in the order and with the names that folders of these images give.

    Degraded are KEY.degraded.png or input/KEY.png, clean are KEY.clean.png or target/KEY.png, and so on with each name
    of such a folder; an image that says neither is left out where others do, else all are clean photographs. DataError
    for what does not pair up, and for two images of one name.
    """
    images: dict[Side | None, dict[str, Path]] = {"degraded": {}, "clean": {}, None: {}}
    for tar, indexed in refresh_index(folder).items():
        for member in indexed.images:
            side, name = side_and_name(member)
            path, earlier = folder / tar / member, images[side].get(name)
            if earlier is not None:
                both = f"{printable(earlier.relative_to(folder))} and {printable(path.relative_to(folder))}"
                raise DataError(f"{folder}: {both} have the same name; keep one of them")
            images[side][name] = path
    degraded, clean, others = (dict(sorted(of_side.items())) for of_side in images.values())
    if degraded and clean:
        matches = match_by_habit(degraded, clean)
        alone = [degraded[name] for name in matches.without_clean] + [clean[name] for name in matches.without_degraded]
        if alone:
            names = first_names([printable(path.relative_to(folder)) for path in alone])
            raise DataError(f"{folder}: {len(alone)} images in its tar files have no partner ({names})")
        return tuple(matches.pairs)
    if degraded or clean:
        raise DataError(f"{folder}: its tar files hold {'degraded' if degraded else 'clean'} images without the others")
    if not others:
        raise DataError(f"0 images in the tar files of {folder} (accepted: {', '.join(SUFFIXES)})")
    return tuple(PairPath(None, path, name) for name, path in others.items())
