"""Maker of adapters in PEFT's format, and the arithmetic of merging them, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import safetensors.torch
import tiny
import torch
from torch import Tensor

PREFIX = "base_model.model."
LAYER = "model.layers.{}."
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")


def write(
    folder: Path, tensors: dict[str, Tensor], file: str = "adapter_model.safetensors", **config: object
) -> None:
    """Saves an adapter's tensors, without the prefix of their names, and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}
    tiny.write_json(folder / "adapter_config.json", fields | config)
    named = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    if file.endswith(".bin"):
        torch.save(named, folder / file)
    else:
        safetensors.torch.save_file(named, folder / file)


def pairs(
    model, seed: int, rank: int = 4, targets: tuple[str, ...] = TARGETS, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random A and B of `targets` in every layer of a model of transformers."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for i in range(model.config.num_hidden_layers):
        for target in targets:
            name = LAYER.format(i) + target
            rows, columns = model.get_submodule(name).weight.shape
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=random).to(dtype)
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=random).to(dtype)
    return tensors


def expected(
    base: dict[str, Tensor], tensors: dict[str, Tensor], factor=lambda module, rank: 8 / rank
) -> dict[str, Tensor]:
    """W + factor · B · A under transformers' names."""
    merged = dict(base)
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = tensors[f"{module}.lora_B.weight"]
            delta = b.float() @ a.float() * factor(module, len(a))
            merged[f"{module}.weight"] = merged[f"{module}.weight"] + delta
    return merged


def by_root(module: str, rank: int) -> float:
    """rsLoRA's factor."""
    return 8 / math.sqrt(rank)
