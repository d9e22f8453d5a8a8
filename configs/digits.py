"""Data source `digits`: small images of handwritten digits, each with its digit as the label.

`data.train=digits` are the 1,797 digits that scikit-learn ships (pip install scikit-learn; nothing is downloaded). They
are 8x8 pixels with 17 grey levels (Alpaydin and Kaynak, 1998), enlarged here to 28x28 by cubic interpolation: no detail
is added, so they look soft. Every fifth image is a test image.

`data.train=digits:MNIST`, or KMNIST, FashionMNIST or QMNIST: 28x28 pixels as published, from the folder of that name in
`data.root`, as torchvision keeps it. It is never downloaded here.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from restore_diff import SOURCES
from restore_diff.data.names import DataError, PairPath
from restore_diff.data.pairs import PairList, Split

SIZE_PX = 28


def digits(argument: str, split: Split, root: Path) -> PairList:
    """Write the images that are missing to ROOT/digits/NAME/SPLIT/LABEL/NUMBER.png, and list them all.

    The weather of each pair is its label, "0" to "9". DataError where a package or a copy of the data is missing.
    """
    name = argument or "sklearn"
    pairs = []
    for number, (image, label) in enumerate(_of_torchvision(name, split, root) if argument else _of_sklearn(split)):
        path = root / "digits" / name / split / str(label) / f"{number:05d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{os.getpid()}.png")
            image.save(unfinished)
            unfinished.replace(path)
        pairs.append(PairPath(None, path, f"{label}/{number:05d}", weather=str(label)))
    return PairList(f"digits of {name}", tuple(pairs))


def _of_sklearn(split: Split) -> Iterator[tuple[Image.Image, int]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits: pip install scikit-learn, or name a copy of torchvision's: digits:MNIST") from None
    images, labels = load_digits(return_X_y=True)
    for place, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        if (place % 5 == 4) == (split == "test"):
            small = Image.fromarray((pixels.reshape(8, 8) / 16 * 255).round().astype("uint8"))
            yield small.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), int(label)


def _of_torchvision(name: str, split: Split, root: Path) -> Iterator[tuple[Image.Image, int]]:
    from torchvision import datasets

    known = ("MNIST", "KMNIST", "FashionMNIST", "QMNIST")
    if name not in known:
        raise DataError(f"digits:{name}: must be one of {', '.join(known)}; without a name, those of scikit-learn")
    try:
        return iter(getattr(datasets, name)(str(root), train=split == "train"))
    except RuntimeError as error:
        raise DataError(f"digits:{name}: no copy in {root / name}; torchvision.datasets.{name} writes one") from error


SOURCES["digits"] = digits
