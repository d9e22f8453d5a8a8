"""Train a transformer that restores by words: on rain in haze, "remove the rain" keeps the haze, and the reverse.

python examples/words.py -o words.png data.train=PHOTOGRAPHS training.num_steps=1500

Each word is a token that the cross-attention of the network reads; its embedding is trained along, nothing is
downloaded. The target of a crop is what its sentence asks for, rendered from the same draw. Prints the PSNR of each
sentence's result to each target on held-out photographs; the last sentence was never trained on. Any text encoder can
take the place of the table of words: give its output as `tokens`, (batch, number, token_channels).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.utils import make_grid, save_image

import restore_diff as rd
from restore_diff import build
from restore_diff.commands.console import BAD_USAGE, OK, USER_ERRORS, complain, say
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.diffusion.loss import draw_noise, draw_timesteps
from restore_diff.metrics.protocols import PROTOCOLS
from restore_diff.models.unet import Network
from restore_diff.randomness import generator, mix
from restore_diff.settings import DataConfig
from restore_diff.tensors import to_model_range
from restore_diff.training.optimisation import learning_rate

LEFT = {
    "remove the rain": "haze",
    "take the streaks away": "haze",
    "remove the haze": "rain",
    "clear the fog": "rain",
    "remove the rain and the haze": "none",
    "clear the picture": "none",
}
"""Weather that is left when a sentence is obeyed."""
UNSEEN = {"take the haze away": "rain"}
VOCABULARY = sorted({word for sentence in LEFT for word in sentence.split()})
WIDTH = 32
SETTINGS = [
    *("model.kind=transformer", f"model.options.token_channels={WIDTH}", "data.weather={none: 1.0}"),
    *("training.batch_size=8", "training.num_steps=1500"),
]


class Words(nn.Embedding):
    """Sentences to tokens: a vector for each word, in any order."""

    def __init__(self) -> None:
        super().__init__(1 + len(VOCABULARY), WIDTH)

    def condition(self, sentences: list[str]) -> dict[str, Tensor]:
        """Tokens (batch, words, WIDTH) and their mask; ValueError for an unknown word."""
        rows = [torch.tensor([1 + VOCABULARY.index(word) for word in text.split()]) for text in sentences]
        numbers = pad_sequence(rows, batch_first=True).to(self.weight.device)  # 0: no word
        return {"tokens": self(numbers), "token_mask": numbers > 0}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings, e.g. training.num_steps=9")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    args = parser.parse_intermixed_args(argv)
    try:
        config = load_config(["derain.yaml"], [*SETTINGS, *args.overrides])
        network, words = train(config)
        save_image(compare(config, network, words), args.output)
        say(f"wrote {args.output}: degraded, then a column for each sentence")
        return OK
    except USER_ERRORS as error:
        complain("words.py", error)
        return BAD_USAGE


def train(config: ExperimentConfig) -> tuple[Network, Words]:
    torch.manual_seed(config.seed)
    network, words, render = build.network(config), Words(), both_weathers()
    diffusion, batches = build.diffusion(config), build.batches(config, build.training_sets(config)[0]).iter_from(0)
    optimizer = torch.optim.AdamW([*network.parameters(), *words.parameters()])
    size, num_timesteps = config.training.batch_size, config.schedule.num_timesteps
    total = 0.0
    for step in range(config.training.num_steps):
        batch = next(batches)
        asked = torch.randint(len(LEFT), (size,), generator=generator(config.seed, "sentences", step)).tolist()
        seeds = [mix(config.seed, "words", position) for position in batch.positions]
        degraded = to_model_range(render(batch.clean, seeds, ["rain+haze"] * size))
        target = to_model_range(render(batch.clean, seeds, [list(LEFT.values())[number] for number in asked]))
        condition = words.condition([list(LEFT)[number] for number in asked])
        t = draw_timesteps("stratified", 0, size, size, num_timesteps, config.seed, step)
        epsilon = draw_noise(target, batch.positions, config.seed)
        loss = diffusion.loss(lambda *noisy, given=condition: network(*noisy, **given), target, degraded, t, epsilon)
        optimizer.param_groups[0]["lr"] = learning_rate(config.training, step)
        optimizer.zero_grad()
        loss.mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.training.max_gradient_norm)
        optimizer.step()
        total += loss.mean().item()
        if (step + 1) % config.training.log_every_steps == 0:
            say(f"step {step + 1}  loss {total / config.training.log_every_steps:.4f}")
            total = 0.0
    return network.eval(), words


@torch.no_grad()
def compare(config: ExperimentConfig, network: Network, words: Words) -> Tensor:
    """Print mean PSNR to each target by sentence, and return a grid of the pictures."""
    images = build.images(config, build.test_set(config, config.data.test))
    multiple, render = network.size_multiple, both_weathers()
    columns: dict[str, list[Tensor]] = {"": []}
    targets: dict[str, list[Tensor]] = {"rain": [], "haze": [], "none": []}
    for number in range(len(images)):
        clean = images[number].clean[None]
        clean = clean[..., : clean.shape[-2] // multiple * multiple, : clean.shape[-1] // multiple * multiple]
        for left, found in targets.items():
            found.append(render(clean, [number], [left]))
        columns[""].append(render(clean, [number], ["rain+haze"]))
        for sentence in [*LEFT, *UNSEEN]:
            settings = {"schedule": config.schedule, "prediction": config.diffusion.prediction, "num_steps": 1}
            result = rd.sample(network, columns[""][-1], **settings, condition=words.condition([sentence]))
            columns.setdefault(sentence, []).append(result.clamp(0, 1))
    say(f"{'PSNR (dB) to the picture with':32}" + "".join(f"{left:>8}" for left in targets))
    for sentence, results in columns.items():
        means = [
            torch.stack([PROTOCOLS["rgb"].psnr(*pair) for pair in zip(results, of_left, strict=True)]).mean().item()
            for of_left in targets.values()
        ]
        asked = (LEFT | UNSEEN).get(sentence, "rain+haze")
        say(f"{sentence or '(degraded)':32}" + "".join(f"{mean:8.2f}" for mean in means) + f"   asked: {asked}")
    side = min(min(picture.shape[-2:]) for picture in columns[""])
    rows = [picture[0, :, :side, :side] for row in zip(*columns.values(), strict=True) for picture in row]
    return make_grid(rows, nrow=len(columns), padding=4, pad_value=1)


def both_weathers():
    render = build.renderer(DataConfig(weather="rain+haze"))
    assert render is not None
    return render


if __name__ == "__main__":
    raise SystemExit(main())
