"""Unconditional runs: digits with labels are trained, validated by pictures, and drawn by command and from Python."""

import json
import math
import re
import runpy
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image

import restore_diff as rd
from restore_diff.commands.sample import main as sample
from restore_diff.data.pairs import SOURCES

TINY = [
    *(
        "data.train=digits:MNIST",
        "data.test=digits:MNIST",
        "data.num_validation=5",
        "training.num_steps=4",
        "training.batch_size=16",
    ),
    *("training.validate_every_steps=2", "training.warmup_steps=1", "model.base_channels=8", "model.num_groups=4"),
    *("model.attention_levels=[]", "model.mid_attention=false", "sampler.num_steps=3", "training.hint_dropout=0"),
]


def write_mnist(root, num_images=40):
    """As torchvision keeps it: a picture of digit d has the brightness 25 d, or a little more."""
    folder = Path(root) / "MNIST" / "raw"
    folder.mkdir(parents=True)
    labels = bytes(k % 10 for k in range(num_images))
    pixels = b"".join(bytes([25 * label + k // 10]) * 28 * 28 for k, label in enumerate(labels))
    for kind in ("train", "t10k"):
        (folder / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, num_images) + labels)
        (folder / f"{kind}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, num_images, 28, 28) + pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("digits"))
        write_mnist("data")
        yield rd.train("digits.yaml", overrides=TINY)


def test_the_source_gives_each_image_its_label(run):
    pairs = SOURCES["digits"]("MNIST", "test", Path("data")).pairs
    assert [pair.weather for pair in pairs[:12]] == [str(k % 10) for k in range(12)]
    assert Image.open(pairs[7].clean).getpixel((0, 0)) == 175
    with pytest.raises(ValueError, match=r"digits:KMNIST: no copy in data/KMNIST"):
        SOURCES["digits"]("KMNIST", "test", Path("data"))
    with pytest.raises(ValueError, match="digits:mnist: must be one of MNIST, KMNIST"):
        SOURCES["digits"]("mnist", "test", Path("data"))


def test_every_fifth_digit_of_scikit_learn_is_tested_on(run):
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    pairs = SOURCES["digits"]("", "test", Path("data")).pairs
    assert [int(pair.weather) for pair in pairs] == labels[4::5].tolist()
    large = Image.open(pairs[7].clean)
    assert large.size == (28, 28)
    small = torch.tensor(large.resize((8, 8), Image.Resampling.BOX).get_flattened_data()) / 255 * 16
    assert torch.corrcoef(torch.stack([small, torch.tensor(images[39], dtype=torch.float32)]))[0, 1] > 0.98


def test_each_validation_shows_samples_and_scores_the_noise(run):
    assert sorted(path.name for path in (run.path / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    assert Image.open(run.path / "samples" / "step_000004.png").size == (10 * 30 + 2, 2 * 30 + 2)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation/epsilon_snr" in line] == [2, 4]


def test_epsilon_snr_is_0_db_for_an_output_of_0(run):
    from restore_diff import build, trained
    from restore_diff.commands.training_run import sampling_validation
    from restore_diff.training.run import NullLog

    config = build.with_overrides(run.config, diffusion__prediction="epsilon")
    untrained = trained.network(config)
    pairs = build.training_sets(config)[1]
    validate = sampling_validation(config, untrained, torch.device("cpu"), pairs, NullLog())
    num_values = len(pairs.pairs) * 8 * 3 * 28 * 28
    deviation_db = 10 / math.log(10) * math.sqrt(2 / num_values)
    assert abs(validate(untrained, 0)["epsilon_snr"]) < 5 * deviation_db


def test_the_label_of_each_training_image_reaches_the_network(run):
    loaded = run.load()
    assert (loaded.network.weather_embedding.weight != 0).any(0).tolist() == [False] + [True] * 10
    one, other, unknown = (loaded.sample(2, label=label) for label in ("1", "9", None))
    assert not torch.equal(one, other)
    assert not torch.equal(one, unknown)
    assert torch.equal(loaded.sample(2, label=["1", "1"]), one)


def test_the_command_draws_what_python_draws_and_each_step_in_a_gif(run, capsys):
    assert sample(["--ckpt", str(run.path), "-o", "out.png", "--gif", "out.gif", "-n", "4", "--label", "3"]) == 0
    assert "out.png: 4 images of 28 px, ddim 3 steps" in capsys.readouterr().out
    drawn = torch.tensor(Image.open("out.png").convert("RGB").get_flattened_data()).reshape(62, 62, 3)
    expected = (run.load().sample(4, label="3").clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    assert (drawn[2:30, 2:30] - expected[0]).abs().max() <= 1
    assert (drawn[32:60, 32:60] - expected[3]).abs().max() <= 1
    gif = Image.open("out.gif")
    assert (gif.n_frames, gif.size) == (4, (62, 62))  # x_t of each step, then the images


def test_guidance_of_the_command_is_classifier_free(run):
    from restore_diff.diffusion.guidance import ClassifierFree, ClassifierFreeSettings

    assert sample(["--ckpt", str(run.path), "-o", "w.png", "-n", "1", "--label", "3", "--guidance", "2"]) == 0
    expected = run.load().sample(1, label="3", guidance=ClassifierFree(ClassifierFreeSettings(scale=2)))
    drawn = torch.tensor(Image.open("w.png").convert("RGB").get_flattened_data()).reshape(28, 28, 3)
    levels = (expected[0].clamp(0, 1) * 255).round().permute(1, 2, 0)
    assert (drawn - levels).abs().max() <= 1
    assert not torch.equal(expected, run.load().sample(1, label="3"))


def test_digits_labels_counts_what_was_asked_for_in_each_way(run, capsys):
    example = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples/digits_labels.py"))
    arguments = [str(run.path), "-o", "ways.png", "--num-per-digit", "2", "--num-steps", "80"]
    example["main"](arguments)
    judged, *ways = capsys.readouterr().out.splitlines()
    assert judged == "judge: 100.0 % of 40 test images right"  # each digit has a brightness of its own
    assert [re.sub(r" +[\d.]+ % as asked  spread [\d.]+$", "", way) for way in ways][4:6] == [
        "label",
        "label, classifier-free, w 1",
    ]
    assert Image.open("ways.png").size == (20 * 30 + 2, len(ways) * 30 + 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "shipped"], "these weights need a degraded image"),
        (["--label", "ten"], "unknown weather 'ten'; this network has the labels none, 0, 1"),
        (["--guidance", "2"], "--guidance: needs a --label"),
        (["--guidance", "-1", "--label", "3"], "sampler.guidance_options.scale: input should be greater"),
        (["--size", "30"], "height and width must be multiples of 4, got 30 x 30"),
        (["--steps", "2000"], "sampler.num_steps: must not exceed schedule.num_timesteps=1000"),
        (["--ckpt", "absent"], "absent: no such checkpoint"),
        (["-o", "out.xyz"], "out.xyz: .xyz is not written"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run, arguments, message, capsys):
    given = ["--ckpt", str(run.path), "-o", "wrong.png", "-n", "1", *arguments]
    assert sample(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("wrong.png").exists()
