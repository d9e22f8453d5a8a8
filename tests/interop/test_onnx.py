"""The ONNX file computes the output of the network at every size and holds the settings of a sampler."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from restore_diff import build
from restore_diff.config import config_from_dict
from restore_diff.diffusion.samplers import DDIMSampler
from restore_diff.diffusion.schedule import NoiseSchedule
from restore_diff.errors import UserError
from restore_diff.interop import onnx as exporter
from restore_diff.interop.onnx import sampling_metadata, to_onnx
from restore_diff.models.unet import UNet
from restore_diff.restoration.restorer import Restorer
from restore_diff.settings import SamplerConfig, ScheduleConfig, TilingConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TINY = {"base_channels": 8, "channel_multipliers": [1, 2], "num_blocks": 1, "num_groups": 4}
CONFIG = config_from_dict(
    {
        "model": TINY | {"attention_levels": [1], "head_channels": 8, "unshuffle": 2},
        "data": {"crop_size_px": 16},
        "schedule": {"name": "cosine", "num_timesteps": 50},
        "diffusion": {"prediction": "velocity"},
        "sampler": {"num_steps": 3, "spacing": "leading"},
        "tiling": {"tile_size_px": 0},
    }
)


def randomised(model: UNet) -> UNet:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def runner(content: bytes):
    """The network as a function, run by onnxruntime."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def predict(x_t, t, degraded):
        feed = {"x_t": x_t.numpy(), "t": t.numpy(), "degraded": degraded.numpy()}
        return torch.from_numpy(session.run(["output"], feed)[0])

    return predict


@pytest.fixture(scope="module")
def exported():
    """The network and its file."""
    model = randomised(UNet(CONFIG.model))
    return model, to_onnx(
        model, sampling_metadata(CONFIG, build.schedule(CONFIG).alpha_bar, model.size_multiple, step=7)
    )


def test_the_file_computes_the_networks_output_at_any_size(exported):
    model, (content, difference) = exported
    assert 0 < difference < 1e-5
    predict = runner(content)
    generator = torch.Generator().manual_seed(6)
    for batch, height, width in ((1, 8, 20), (4, 24, 4), (2, 4, 4)):
        x_t, degraded = (torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))
        t = torch.arange(batch) * 13 % 50
        with torch.no_grad():
            expected = model(x_t, t, degraded)
        assert expected.std() > 0.1
        torch.testing.assert_close(predict(x_t, t, degraded), expected, rtol=0, atol=1e-5 * expected.abs().max())


def test_a_sampler_needs_only_the_file_and_its_metadata(exported):
    model, (content, _) = exported
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    notes = json.loads(metadata["restore_diff"])
    schedule = notes["schedule"]
    assert schedule.pop("alpha_bar") == build.schedule(CONFIG).alpha_bar.tolist()
    assert (notes["range"], notes["channels"], notes["step"]) == ([-1, 1], "RGB", 7)

    sampler = DDIMSampler(
        NoiseSchedule(ScheduleConfig(**schedule)), notes["prediction"], SamplerConfig(**notes["sampler"])
    )
    tiling = TilingConfig(**notes["tiling"])
    theirs = Restorer(runner(content), sampler, tiling, notes["size_multiple"], "cpu")
    ours = build.restorer(CONFIG, model, torch.device("cpu"), "float32")
    degraded = torch.rand(1, 3, 21, 30, generator=torch.Generator().manual_seed(7))
    restored = ours.restore(degraded, ["a"])
    assert restored.std() > 0.1
    torch.testing.assert_close(theirs.restore(degraded, ["a"]), restored, rtol=0, atol=1e-4)


def test_the_file_names_its_axes_and_holds_no_local_path(exported):
    _, (content, _) = exported
    graph = onnx.load_from_string(content).graph
    axes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    images = ["batch", 3, "4*height_div_4", "4*width_div_4"]
    assert axes == {"x_t": images, "t": ["batch"], "degraded": images}
    assert b".py" not in content


@pytest.mark.parametrize(("change", "shown"), [(1e-3, r"\d\.\de-04"), (float("nan"), "nan"), (None, r".*")])
def test_a_file_with_another_output_is_refused(change, shown, exported, monkeypatch):
    """The change is to one bias; None: all outputs are zero."""
    model, (content, _) = exported
    other = UNet(CONFIG.model).eval()
    if change is not None:
        other.load_state_dict(model.state_dict())
        assert other.conv_out.bias is not None
        with torch.no_grad():
            other.conv_out.bias[0] += change
    monkeypatch.setattr(exporter, "_traced", lambda model, metadata: content)
    with pytest.raises(UserError, match=rf"differs from torch by {shown} of the largest output") as caught:
        to_onnx(other, {})
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(exporter, "_traced", lambda model, metadata: b"garbage")
    with pytest.raises(UserError, match=r"^onnxruntime \S+ cannot run the file: .*protobuf") as caught:
        to_onnx(UNet(CONFIG.model), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"base_channels": 6000}, "at most 2 GiB"), ({"condition_channels": 0}, "condition_channels is 0")],
)
def test_an_unsupported_network_is_refused_before_the_trace(change, message):
    with torch.device("meta"):
        model = UNet(replace(CONFIG.model, **change))
    with pytest.raises(UserError, match=message):
        to_onnx(model, {})


def test_a_tracer_error_is_reported_in_one_line(monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand a page more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"^torch \S+ cannot export: no such operator$"):
        to_onnx(UNet(CONFIG.model), {})


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_install_command(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*\): pip install \"restore_diff\[onnx\]\"$"):
        exporter.require_onnx()
