"""The export command writes a complete file for other programs, or nothing and one line of error."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import enter, run_test, run_train, scores, tree

from restore_diff.checkpoint import load_weights, save_weights
from restore_diff.commands import export
from restore_diff.config import config_from_dict, to_dict
from restore_diff.interop import onnx as exporter
from restore_diff.models.unet import UNet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights() -> Path:
    """Weights of a network that diffusers supports and that is traced quickly."""
    return save("weights.safetensors", {"attention_levels": [], "mid_attention": False})


def save(path: str, changes: dict) -> Path:
    model = {"base_channels": 8, "channel_multipliers": [1], "num_blocks": 1, "num_groups": 4, "head_channels": 0}
    config = config_from_dict({"model": model | changes, "data": {"crop_size_px": 16}, "tiling": {"tile_size_px": 0}})
    torch.manual_seed(3)
    tensors = {name: torch.randn_like(tensor) / 4 for name, tensor in UNet(config.model).state_dict().items()}
    save_weights(Path(path), tensors, to_dict(config), step=12)
    return Path(path)


def run(form: str, output: str, *more: str, ckpt: str = "weights.safetensors") -> int:
    return export.main([form, "--ckpt", ckpt, "-o", output, *more])


def refusal(capsys) -> str:
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("restore-diff export: ")
    assert len(error.splitlines()) == 1
    return error


def test_a_run_becomes_one_file_of_averaged_weights_with_equal_scores(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    assert run_train("data.num_validation=0") == 0
    assert export.main(["safetensors", "-o", "out/derain.safetensors"]) == 0
    assert "restore-diff restore -i your_photos -o restored --ckpt out/derain.safetensors" in capsys.readouterr().out
    averaged = load_file(sorted(Path("runs/derain/checkpoints").glob("[0-9]*"))[-1] / "ema.safetensors")
    written = load_file("out/derain.safetensors")
    assert written.keys() == averaged.keys()
    assert all(torch.equal(written[name], averaged[name]) for name in averaged)
    assert run_test("--ckpt", "runs/derain", "--out", "a") == 0
    assert run_test("--ckpt", "out/derain.safetensors", "--out", "b") == 0
    assert scores(Path("a/tests")) == scores(Path("b/tests"))


def test_onnx_is_written_after_its_check(weights, capsys):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run("onnx", "new/network.onnx") == 0
    printed = capsys.readouterr()
    assert "checked by onnxruntime at two sizes and two batch sizes" in printed.out
    assert "weights weights.safetensors (step 12)" in printed.out
    assert not printed.err
    session = onnxruntime.InferenceSession("new/network.onnx", providers=["CPUExecutionProvider"])
    images = ["batch", 3, "height", "width"]
    axes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert axes == {"x_t": images, "t": ["batch"], "degraded": images}
    assert [path.name for path in Path("new").iterdir()] == ["network.onnx"]


def test_an_onnx_file_that_fails_its_check_is_not_written(weights, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(exporter, "require_onnx", lambda: None)
    monkeypatch.setattr(exporter, "_traced", lambda model, metadata: b"")
    monkeypatch.setattr(exporter, "_difference", lambda model, content: 2e-4)
    assert run("onnx", "new/network.onnx") == 2
    assert "differs from torch by 2.0e-04 of the largest output" in refusal(capsys)
    assert not Path("new").exists()


def test_a_missing_extra_is_reported_before_weights_are_read(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("onnx", "network.onnx", ckpt="absent") == 2
    assert 'pip install "restore_diff[onnx]"' in refusal(capsys)


def test_diffusers_output_is_a_folder(weights, capsys):
    assert run("diffusers", "out/net") == 0
    assert "torch.cat([degraded, x_t], dim=1)" in capsys.readouterr().out
    names = ["config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"]
    assert sorted(tree(Path("out/net"))) == names


@pytest.mark.parametrize(
    ("changes", "named"), [({"unshuffle": 2}, "model.unshuffle=2"), ({"hint": True}, "model.hint")]
)
def test_a_network_unsupported_by_diffusers_is_refused(changes, named, capsys):
    save("weights.safetensors", changes | {"attention_levels": [0]})
    assert run("diffusers", "out/net") == 2
    assert named in refusal(capsys)
    assert not Path("out").exists()


def test_a_folder_of_diffusers_becomes_the_weights_it_came_from(weights, capsys):
    assert run("diffusers", "net") == 0
    assert export.import_main(["diffusers", "net", "-o", "new/back.safetensors"]) == 0
    assert "next    restore-diff restore -i your_photos -o restored --ckpt new/back" in capsys.readouterr().out
    before, back = load_weights(weights), load_weights(Path("new/back.safetensors"))
    assert before[1:] == back[1:]
    assert before.tensors.keys() == back.tensors.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in before.tensors.items())


def test_an_unconditional_network_moves_to_a_pipeline_and_back(capsys):
    save("weights.safetensors", {"attention_levels": [0], "condition_channels": 0})
    assert run("diffusers", "net") == 0
    assert "its sample is x_t\nand diffusers.DDIMPipeline" in capsys.readouterr().out
    assert Path("net/model_index.json").exists()
    assert export.import_main(["diffusers", "net", "-o", "back.safetensors"]) == 0
    assert "next    restore-diff sample --ckpt back.safetensors -o samples.png" in capsys.readouterr().out


def test_weights_that_do_not_fit_the_folder_s_config_are_refused(weights, capsys):
    assert run("diffusers", "net") == 0
    save_file({"conv_in.weight": torch.zeros(8, 6, 3, 3)}, "net/diffusion_pytorch_model.safetensors")
    assert export.import_main(["diffusers", "net", "-o", "back.safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("restore-diff import-ckpt: the weights do not fit the network") and error.count("\n") == 1
    assert not Path("back.safetensors").exists()


@pytest.mark.parametrize(("form", "output"), [("safetensors", "o.safetensors"), ("onnx", "o.onnx"), ("diffusers", "o")])
def test_only_overwrite_replaces_an_output(form, output, weights, capsys):
    kept = Path("o/config.json") if form == "diffusers" else Path(output)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert run(form, output) == 2
    assert f"{output} exists already; --overwrite replaces it" in refusal(capsys)
    assert kept.read_text() == "mine"
    if form != "onnx":
        assert run(form, output, "--overwrite") == 0
        assert kept.read_bytes() != b"mine"


def test_a_folder_is_not_replaced_by_a_file_nor_a_file_by_a_folder(weights, capsys):
    Path("folder").mkdir()
    Path("file").touch()
    for form, output, reason in (
        ("onnx", "folder", "is a folder; -o names a file"),
        ("diffusers", "file", "is a file"),
    ):
        assert run(form, output, "--overwrite") == 2
        assert reason in refusal(capsys)


@pytest.mark.parametrize("form", ["onnx", "diffusers", "safetensors"])
def test_weights_of_another_network_are_refused(form, weights, monkeypatch, capsys):
    monkeypatch.setattr(exporter, "require_onnx", lambda: None)
    save_weights(weights, load_file(weights), to_dict(config_from_dict({})), step=0)
    assert run(form, "out/o") == 2
    assert "the weights do not fit the network of their config" in refusal(capsys)
    assert not Path("out").exists()


def test_a_path_without_weights_is_refused(capsys):
    assert run("safetensors", "o.safetensors", ckpt="absent") == 2
    assert "absent: no such checkpoint, weights file or run folder" in refusal(capsys)
    Path("text").write_text("hello")
    assert run("safetensors", "o.safetensors", ckpt="text") == 2
    assert "text: not a safetensors file" in refusal(capsys)


def test_an_interrupt_keeps_the_old_file(weights, monkeypatch, capsys):
    Path("o.safetensors").write_text("old")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(export.EXPORTS, "safetensors", interrupted)
    assert run("safetensors", "o.safetensors", "--overwrite") == 130
    assert "interrupted" in refusal(capsys)
    assert Path("o.safetensors").read_text() == "old"


@pytest.mark.parametrize(("function", "arguments"), [("main", ["onnx"]), ("import_main", ["weatherdiffusion", "file"])])
def test_help_and_an_existing_output_do_not_import_torch(function, arguments):
    code = (
        f"import sys; from restore_diff.commands.export import {function} as main\n"
        f"assert main([*{arguments}, '-o', 'setup.cfg']) == 2\n"
        "assert 'torch' not in sys.modules\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["onnx"], ["-o", "x"], ["tensorflow", "-o", "x"], ["onnx", "-o", ""]])
def test_malformed_arguments_end_with_exit_code_2(arguments):
    with pytest.raises(SystemExit) as end:
        export.main(arguments)
    assert end.value.code == 2


def test_half_stores_float16_and_card_stores_the_model_card(weights, capsys):
    Path("card.md").write_text("# What it is", encoding="utf-8")
    assert run("safetensors", "full.safetensors") == 0
    assert run("safetensors", "half.safetensors", "--half", "--card", "card.md") == 0
    with safe_open("half.safetensors", "pt") as file:
        assert file.metadata()["model_card"] == "# What it is"
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    full, half = load_weights(Path("full.safetensors")), load_weights(Path("half.safetensors"))
    for name, tensor in half.tensors.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, full.tensors[name], rtol=2**-11, atol=2**-24)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("onnx", "o.onnx", "--half")
    assert "--half and --card are for safetensors" in capsys.readouterr().err
    assert run("safetensors", "o.safetensors", "--card", "absent.md") == 2
    assert "absent.md" in refusal(capsys)
    assert not Path("o.safetensors").exists()
