"""What is chosen for a machine."""

import pytest
import torch

from restore_diff.build import select_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, "float32"),
        ({"avx512_bf16": False, "avx512_f": True, "cpu_name": "AMD EPYC"}, "float32"),
        ({"avx512_bf16": True}, "float32"),
        ({"bf16": True, "architecture": "arm64"}, "float32"),  # not measured
    ],
)
def test_a_cpu_takes_bfloat16_where_it_computes_with_it(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert select_precision("auto", CPU) == expected


def test_a_torch_that_cannot_tell_and_other_devices_take_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert select_precision("auto", CPU) == select_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(name):
    assert select_precision(name, CPU) == name
