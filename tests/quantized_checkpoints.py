"""Checkpoints whose layers' matrices tests quantize as other libraries store them."""

from pathlib import Path

import numpy as np
import safetensors.torch
import tiny
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.pipeline.model_request import ModelSource
from exporter.pipeline.prepare import describe

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
          "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def quantize(folder: Path, quantization: dict, make) -> dict[str, np.ndarray]:
    """Replaces the layers' matrices by `make(module, rows, columns)`: tensors by the ends of their names, and
    the matrix that they stand for. Returns these by stored names."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    expected = {}
    for name in [n for n in tensors if n.removesuffix(".weight").endswith(LAYERS)]:
        module = name.removesuffix(".weight")
        parts, expected[name] = make(module, *tensors.pop(name).shape)
        tensors |= {f"{module}.{end}": torch.as_tensor(part).contiguous() for end, part in parts.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    config = tiny.read_json(folder / "config.json")
    tiny.write_json(folder / "config.json", config | {"quantization_config": quantization})
    return expected


def assert_floats(folder: Path, expected: dict[str, np.ndarray], said: str, capsys) -> None:
    checkpoint = open_checkpoint(str(folder))
    state = checkpoint.state_dict(torch.float32)
    stored = {checkpoint.weights.stored_name(name): tensor for name, tensor in state.items()}
    for name, wanted in expected.items():
        np.testing.assert_array_equal(stored[name].numpy(), wanted, err_msg=name)
    half = checkpoint.state_dict(torch.bfloat16)
    assert all(torch.equal(half[name], tensor.to(torch.bfloat16)) for name, tensor in state.items())
    describe(ModelSource(str(folder)))
    assert f"is quantized already (14 {said}): its weights are read as the floats" in capsys.readouterr().err
