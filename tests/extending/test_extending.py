"""Each file beside this one adds one thing from outside the package; each is trained, loaded and restores here."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import restore_diff as rd
from restore_diff.commands.restore import main as restore
from restore_diff.commands.test import main as score
from restore_diff.config import ConfigError

HERE = Path(__file__).parent
TINY = [
    *("training.num_steps=2", "training.batch_size=2", "training.warmup_steps=1", "data.crop_size_px=16"),
    *("data.num_workers=0", "data.num_validation=1", "evaluation.lpips=none", "model.base_channels=8"),
    *("model.channel_multipliers=[1,1]", "model.num_blocks=1", "model.num_groups=4", "model.attention_levels=[]"),
    *("model.mid_attention=false", "sampler.num_steps=2"),
]
CASES = {
    "my_network.py": ["model.kind=plain", "model.options.width=8"],
    "my_sampler.py": ["sampler.name=euler"],
    "my_schedule.py": ["schedule.name=geometric", "schedule.options.growth=50.0"],
    "my_loss.py": ["diffusion.loss=edges", "diffusion.options.edges=0.5"],
    "my_prediction.py": ["diffusion.prediction=weather"],
    "my_weather.py": [
        *("data.train=clean", "data.test=clean", "data.weather=smoke", "model.hint=true"),
        *("model.labels=[none,rain,haze,snow,raindrop,smoke]", "data.weather_options.smoke={density: [0.3, 0.4]}"),
    ],
    "my_source.py": ["data.train=list:pairs.txt"],
    "my_guidance.py": ["sampler.guidance=brightness", "sampler.guidance_options.target=0.2"],
    "my_codec.py": ["codec.name=folded", "model.image_channels=12", "model.condition_channels=12"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = torch.Generator().manual_seed(0)
    for name in ("input", "target", "clean"):
        Path(name).mkdir()
        for number in range(5):
            pixels = torch.randint(256, (32, 32, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(f"{name}/{number}.png")
    Path("pairs.txt").write_text("".join(f"input/{n}.png target/{n}.png\n" for n in range(5)))
    return tmp_path


@pytest.mark.parametrize(("plugin", "overrides"), CASES.items())
def test_a_file_outside_the_package_works_end_to_end(folder, plugin, overrides):
    assert (HERE / plugin).read_text().count("\n") <= 60
    Path("mine.yaml").write_text(f"plugins: ['{HERE / plugin}']\n")
    run = rd.train("mine.yaml", data="input:target", overrides=[*TINY, *overrides])
    assert f"plugin {plugin}" in (run.path / "environment.json").read_text()
    degraded = torch.rand(1, 3, 31, 30, generator=torch.Generator().manual_seed(1))
    restored = run.load()(degraded)
    assert restored.shape == degraded.shape
    assert restored.isfinite().all()
    assert not torch.equal(restored, degraded)


def test_commands_restore_and_score_a_run_that_needs_a_plugin(folder, monkeypatch):
    plugin = str(HERE / "my_network.py")
    Path("mine.yaml").write_text(f"plugins: ['{plugin}']\n")
    run = rd.train("mine.yaml", data="input:target", overrides=[*TINY, *CASES["my_network.py"]])
    monkeypatch.delitem(rd.MODELS, "plain")
    assert restore(["-i", "input", "-o", "out", "--ckpt", str(run.path)]) == 2
    monkeypatch.setattr("restore_diff.registry.LOADED", {})
    assert restore(["-i", "input", "-o", "out", "--ckpt", str(run.path), "--plugin", plugin]) == 0
    assert len(list(Path("out").glob("*.png"))) == 5
    assert score(["--ckpt", str(run.path), "--plugin", plugin, "--metrics", "psnr"]) == 0


@pytest.mark.parametrize(
    ("plugin", "override", "message"),
    [
        ("my_network.py", "model.options.widht=8", "model.options.widht: unknown key; did you mean width?"),
        ("my_sampler.py", "sampler.name=eulr", "sampler.name: unknown name 'eulr'; did you mean euler?"),
        ("my_loss.py", "diffusion.options.edges=-1", "diffusion.options.edges: input should be greater"),
    ],
)
def test_mistakes_in_a_plugin_s_settings_name_the_nearest_key(folder, plugin, override, message):
    Path("mine.yaml").write_text(f"plugins: ['{HERE / plugin}']\n")
    with pytest.raises(ConfigError) as caught:
        rd.train("mine.yaml", data="input:target", overrides=[*TINY, *CASES[plugin], override])
    assert message in str(caught.value)


def test_a_plugin_that_is_missing_or_raises_is_named(folder):
    Path("bad.py").write_text("1 / 0\n")
    for text, message in [("absent.py", "absent.py: no such file"), ("bad.py", "bad.py raised ZeroDivisionError")]:
        with pytest.raises(ConfigError, match=message):
            rd.train([], overrides=[f"plugins=[{text}]"])


def test_training_and_sampling_work_without_a_degraded_image(folder):
    Path("prior.yaml").write_text("model: {condition_channels: 0}\n")
    run = rd.train("prior.yaml", data="clean", overrides=TINY)
    images = rd.sample(run.load().network, shape=(2, 3, 16, 16), num_steps=3)
    assert images.shape == (2, 3, 16, 16)
    assert images.isfinite().all()
    assert not list(run.path.glob("test/*"))


def test_old_weights_keep_their_five_labels_beside_a_sixth_kind(folder):
    Path("mine.yaml").write_text(f"plugins: ['{HERE / 'my_weather.py'}']\n")
    shipped = rd.load("shipped", quality="fast")
    assert shipped.config.model.labels == ("none", "rain", "haze", "snow", "raindrop")
    with pytest.raises(ValueError, match="unknown weather 'smoke'; this network has the labels none, rain"):
        shipped(torch.rand(3, 16, 16), weather="smoke")
