"""Promises on the device: each test runs on the CPU, and on CUDA where there is one (`pytest -m gpu`)."""

import copy

import pytest
import torch

from restore_diff import build, trained
from restore_diff.checkpoint import list_checkpoints
from restore_diff.config import ExperimentConfig, load_config
from restore_diff.data.loading import Batch
from restore_diff.diffusion.samplers import SAMPLERS
from restore_diff.distributed import TrainingStopped
from restore_diff.randomness import generator
from restore_diff.restoration.restorer import Restorer
from restore_diff.training.faults import Interruption
from restore_diff.training.optimisation import Optimisation
from restore_diff.training.run import RunFolder, RunLog
from restore_diff.training.trainer import Trainer

SMALL = [
    *("model.base_channels=8", "model.channel_multipliers=[1,2]", "model.num_groups=4"),
    *("model.hint=true", "model.recognise=true"),
    *("data.crop_size_px=16", "tiling.tile_size_px=0", "sampler.num_steps=3"),
    *("training.num_steps=20", "training.batch_size=4", "training.warmup_steps=2"),
    *("training.save_every_steps=10", "training.log_every_steps=5"),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


def small_config(*more: str) -> ExperimentConfig:
    return load_config(["derain.yaml"], [*SMALL, *more])


def random_network(config: ExperimentConfig, device: torch.device):
    """Not the zero output of an untrained network, and the same weights on every device."""
    network = build.network(config)
    with torch.no_grad():
        for place, weight in enumerate(network.parameters()):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator(1, "weight", place)))
    return trained.to_restore(network, device)


def restorer(device: torch.device, *more: str, precision: str = "float32") -> Restorer:
    config = small_config(*more)
    return build.restorer(config, random_network(config, device), device, precision)  # type: ignore[arg-type]


def photograph(height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=generator(0, "photograph"))


def test_the_same_call_gives_the_same_image(device):
    made = restorer(device, "sampler.eta=1", "sampler.num_samples=2")
    first, second = (made.restore(photograph(), ["a"]) for _ in range(2))
    assert (first - second).abs().max() <= 1e-5
    assert (first - made.restore(photograph(), ["b"])).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_device_agrees_with_the_cpu(device, sampler, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = restorer(device, f"sampler.name={sampler}").restore(photograph(), ["a"])
    assert found.device.type == "cpu"
    torch.testing.assert_close(
        found, restorer(torch.device("cpu"), f"sampler.name={sampler}").restore(photograph(), ["a"]), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_low_precision_is_near_to_float32(device, precision, tolerance):
    if (device.type, precision) == ("cpu", "float16"):
        pytest.skip("float16 is for GPUs")
    exact, found = (restorer(device, precision=p).restore(photograph(), ["a"]) for p in ("float32", precision))
    assert 0 < (exact - found).abs().mean() < tolerance


def test_tiles_equal_the_whole_image_where_they_have_its_context(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    one_tile = restorer(device, "tiling.tile_size_px=64").restore(photograph(64, 64), ["a"])
    whole = restorer(device).restore(photograph(64, 64), ["a"])
    torch.testing.assert_close(one_tile, whole, rtol=0, atol=1e-4)


def test_the_number_of_tiles_in_a_batch_changes_nothing(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = ["tiling.tile_size_px=32", "tiling.tile_overlap_px=8"]
    several = restorer(device, *settings).restore(photograph(72, 88), ["a"])
    single = restorer(device, *settings, "tiling.tiles_per_batch=1").restore(photograph(72, 88), ["a"])
    torch.testing.assert_close(several, single, rtol=0, atol=1e-4)


def test_the_shipped_weights_detect_the_same_weather_as_on_the_cpu(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    logits = []
    for at in (device, torch.device("cpu")):
        made, _ = trained.load_restorer(trained.SHIPPED_NAME, str(at), "float32")
        assert made.recognition is not None
        with torch.no_grad():
            logits.append(made.recognition.logits(photograph(64, 64)).cpu())
    torch.testing.assert_close(*logits, rtol=0, atol=1e-2)


def batches_from(config: ExperimentConfig):
    """Batches of step `step` on: sample k depends on k alone."""

    def batches(step: int):
        for first in range(step * config.training.batch_size, 10**6, config.training.batch_size):
            positions = list(range(first, first + config.training.batch_size))
            clean = torch.stack([torch.rand(3, 16, 16, generator=generator(0, "image", k % 5)) for k in positions])
            labels = ["rain"] * len(positions)
            yield Batch(clean, (clean + 0.3).clamp(0, 1), positions, labels, labels)

    return batches


def train(folder, config: ExperimentConfig, device: torch.device, stop_at: int | None = None) -> Optimisation:
    optimisation = Optimisation(build.network(config), build.diffusion(config), config.training, 0, device)
    interruption = Interruption()

    def batches(step: int):
        for number, batch in enumerate(batches_from(config)(step), start=step + 1):
            if number == stop_at:
                raise TrainingStopped(number, "stopped by the test")
            yield batch

    with RunFolder(folder) as run, RunLog(folder) as log:
        trainer = Trainer(
            optimisation=optimisation,
            batches_from=batches,
            config=config.training,
            experiment={"seed": 0},
            interruption=interruption,
            validate=None,
            best_metric="psnr",
            run=run,
            log=log,
        )
        try:
            trainer.run()
        except TrainingStopped:
            assert stop_at is not None
    return optimisation


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_resumed_at_step_10_ends_as_an_uninterrupted_one(device, precision, tmp_path):
    """On a GPU the sums of some kernels have no fixed order, so weights agree to rounding, not bit for bit."""
    config = small_config(f"training.precision={precision}")
    whole = train(tmp_path / "whole", config, device)
    train(tmp_path / "parts", config, device, stop_at=14)
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "00000010"
    parts = train(tmp_path / "parts", config, device)
    assert "resumed from checkpoint 00000010" in (tmp_path / "parts" / "log.txt").read_text()
    tolerance = 0 if device.type == "cpu" else 1e-3
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], weight, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_twenty_steps_on_one_batch_lower_its_loss(device, precision, optimizer):
    if (device.type, precision) == ("cpu", "float16"):
        pytest.skip("float16 is for GPUs")
    config = small_config(f"training.precision={precision}", f"training.optimizer={optimizer}")
    optimisation = Optimisation(build.network(config), build.diffusion(config), config.training, 0, device)
    batch = next(batches_from(config)(0))
    before = copy.deepcopy(optimisation.model.state_dict())
    losses = []
    for step in range(20):
        moved = batch._replace(positions=[step * 4 + k for k in range(4)])
        losses.append(optimisation.loss(step, moved).item())
        optimisation.advance(step, iter([moved]))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(
        weight.device.type == device.type and weight.isfinite().all() for weight in optimisation.ema.weights.values()
    )
    assert any((before[name] != weight).any() for name, weight in optimisation.model.state_dict().items())


def test_a_compiled_network_equals_the_eager_one(device):
    if device.type == "cpu":
        pytest.skip("minutes of compilation on a CPU")
    config = small_config()
    network = random_network(config, device)
    x_t, degraded, t = *torch.randn(2, 2, 3, 32, 32, device=device), torch.tensor([7, 999], device=device)
    with torch.no_grad():
        eager = network(x_t, t, degraded)
        for options in ({}, {"mode": "reduce-overhead"}):
            network.compile(**options)
            for _ in range(3):  # CUDA graphs are recorded at the second call
                found = network(x_t, t, degraded).clone()
            assert (found - eager).abs().max() < 0.01 * eager.abs().max()
            torch.compiler.reset()


def test_memory_does_not_grow_from_photograph_to_photograph(device):
    if device.type == "cpu":
        pytest.skip("counts memory of a GPU")
    made = restorer(device)
    used = []
    for number in range(4):
        made.restore(photograph(), [f"{number}"])
        used.append(torch.cuda.memory_allocated(device))
    assert used[1] == used[3]
