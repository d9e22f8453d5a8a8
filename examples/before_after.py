"""Make the picture of the README: four weathers rendered on photographs of scikit-image (top), and restored (bottom).

python examples/before_after.py docs/images/all_weather.jpg

The shipped weights were not trained on these photographs.
"""

import sys

import torch
from skimage import data
from torchvision.utils import make_grid, save_image

from restore_diff import build
from restore_diff.config import config_from_dict
from restore_diff.trained import SHIPPED_NAME, load_restorer

SCENES = {"rain": data.astronaut, "haze": data.rocket, "snow": data.chelsea, "raindrop": data.coffee}
SIDE = 300


def main(path: str) -> None:
    restorer, _ = load_restorer(SHIPPED_NAME, device="cpu")
    rows = []
    for seed, (weather, photograph) in enumerate(SCENES.items()):
        clean = torch.from_numpy(photograph().copy()).permute(2, 0, 1)[None, :3, :SIDE, 100 : 100 + SIDE] / 255
        render = build.renderer(config_from_dict({"data": {"weather": weather}}).data)
        assert render is not None
        degraded = render(clean, [seed + 7])
        rows.append((degraded[0], restorer.restore(degraded, [weather])[0]))
    top, bottom = zip(*rows, strict=True)
    save_image(make_grid([*top, *bottom], nrow=len(SCENES), padding=4, pad_value=1), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
