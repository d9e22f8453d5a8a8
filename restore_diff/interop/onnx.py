"""Export the network to one ONNX file, x_t, t, degraded -> output, with variable batch size, height and width.

The settings that a sampler needs are in the file's metadata, as JSON under the key "restore_diff".
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore_diff.checkpoint import METADATA_KEY
from restore_diff.config import ExperimentConfig, to_dict
from restore_diff.errors import UserError
from restore_diff.models.unet import Network
from restore_diff.randomness import generator

INPUTS = ("x_t", "t", "degraded")
TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch, relative to the largest output value."""
MAX_WEIGHT_BYTES = 2**31 - 2**26
"""The limit of protocol buffers, 2 GiB, less a margin for the graph."""


class Exported(NamedTuple):
    content: bytes
    difference: float
    """Largest difference between onnxruntime and torch, relative to the largest output value."""


def require_onnx() -> None:
    """Raise UserError where a package of the extra `onnx` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'export onnx needs more packages ({error}): pip install "restore_diff[onnx]"') from error


def sampling_metadata(config: ExperimentConfig, alpha_bar: Tensor, size_multiple: int, step: int) -> dict[str, Any]:
    """Return what a sampler needs besides the network: prediction, noise schedule, value range, sizes.

    `alpha_bar` is that of the config's NoiseSchedule. `sampler` and `tiling` are the settings of our restoration.
    """
    plain = to_dict(config)
    return {
        "prediction": config.diffusion.prediction,
        "schedule": plain["schedule"] | {"alpha_bar": alpha_bar.tolist()},
        "size_multiple": size_multiple,
        "range": [-1, 1],
        "channels": "RGB",
        "codec": config.codec.name,
        "sampler": plain["sampler"],
        "tiling": plain["tiling"],
        "step": step,
    }


def to_onnx(model: Network, metadata: dict[str, Any]) -> Exported:
    """Trace a conditional network, on the CPU in float32 and evaluation mode, and compare the file with it.

    Raises UserError where a package is missing, the network is too large, or the difference exceeds TOLERANCE.
    """
    require_onnx()
    if not model.config.condition_channels:
        raise UserError("model.condition_channels is 0: export onnx needs a network with a degraded image")
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > MAX_WEIGHT_BYTES:
        raise UserError("the network is too large: an ONNX file holds at most 2 GiB")
    with _quiet():
        content = _traced(model, metadata)
    difference = _difference(model, content)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the ONNX file is wrong: onnxruntime differs from torch by {difference:.1e} of the largest output, "
            f"more than {TOLERANCE:.0e}; try other versions of torch and onnxscript"
        )
    return Exported(content, difference)


def _traced(model: Network, metadata: dict[str, Any]) -> bytes:
    multiple, dim = model.size_multiple, torch.export.Dim
    images = {0: dim("batch"), 2: dim("height"), 3: dim("width")}
    if multiple > 1:
        images |= {2: multiple * dim(f"height_div_{multiple}"), 3: multiple * dim(f"width_div_{multiple}")}
    shapes = {"x_t": images, "t": {0: images[0]}, "degraded": images}
    names = {"input_names": INPUTS, "output_names": ["output"]}
    inputs = _inputs(model, 2, 2 * multiple, 3 * multiple)
    try:
        program = torch.onnx.export(model, inputs, **names, dynamic_shapes=shapes, dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"torch {torch.__version__} cannot export: {str(error).splitlines()[0]}") from error
    assert program is not None
    file = program.model_proto
    for part in (file.graph, *file.graph.node):  # stack traces, which hold local paths
        part.ClearField("metadata_props")
    file.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, allow_nan=False))
    return file.SerializeToString()


def _difference(model: Network, content: bytes) -> float:
    """Return the largest difference at two sizes and two batch sizes, all unlike the trace's. Raises UserError."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors  # type: ignore[attr-defined]

    known = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return _largest_difference(model, session)
    except tuple(getattr(errors, name) for name in known) as error:  # they have no common base class
        reason = str(error).splitlines()[0]
        raise UserError(f"onnxruntime {onnxruntime.__version__} cannot run the file: {reason}") from error


def _largest_difference(model: Network, session: Any) -> float:
    multiple, differences = model.size_multiple, []
    for batch in (1, 3):
        for height, width in ((4 * multiple, 3 * multiple), (multiple, 5 * multiple)):
            inputs = _inputs(model, batch, height, width)
            with torch.inference_mode():
                expected = model(*inputs)
            feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
            found = torch.from_numpy(session.run(["output"], feed)[0])
            scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            differences.append((found - expected).abs().max() / scale)
    return torch.stack(differences).max().item()  # nan if one of them is


def _inputs(model: Network, batch: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    random = generator(0, "onnx", batch, height, width)
    # Two tensors, because the tracer merges inputs that are the same tensor.
    x_t = torch.randn(batch, model.config.image_channels, height, width, generator=random)
    degraded = torch.rand(batch, model.config.condition_channels, height, width, generator=random) * 2 - 1
    return x_t, torch.randint(0, 1000, (batch,), generator=random), degraded


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracer's warnings, which concern its own internals."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(previous)
