"""gpt-oss: experts with biases and a clamped SwiGLU, sinks, every second layer with a window, YaRN.

Sources: transformers' GptOssConfig and modeling_gpt_oss, llama.cpp's architecture `gpt-oss` (OpenAI's model
card, arXiv 2508.10925).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import FULL, SLIDING, HFConfig
from exporter.families.sources.names import (
    GGUF_EXPERTS,
    GGUF_IGNORED,
    GGUF_NAMES,
    HF_EXPERTS,
    HF_IGNORED,
    HF_NAMES,
)
from exporter.formats.tensor_types import ITEM_BYTES
from exporter.model.config import (
    MAX_EXPERTS,
    AttentionSpec,
    Experts,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    Rope,
)

if TYPE_CHECKING:  # it loads numpy, which finding a family does without
    from exporter.formats.file_tensor import Directory, FileTensor

LIMIT, ALPHA = 7.0, 1.702
HF_GPT_OSS = HF_EXPERTS | {
    "layers.{i}.feed_forward.router": "model.layers.{i}.mlp.router",
    "layers.{i}.attention.sinks": "model.layers.{i}.self_attn.sinks",
}
GGUF_GPT_OSS = GGUF_EXPERTS | {
    "layers.{i}.ffn_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.attention.sinks": "blk.{i}.attn_sinks.weight",
}


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    config.only("swiglu_alpha", ALPHA)
    for name in ("experts_per_token", "initial_context_length"):  # further names of what is read
        config.ignore(name)
    head_dim, bias = config.count("head_dim", 64), config.boolean("attention_bias", True)
    rope, window = config.rope(head_dim, 150000.0), config.window("sliding_window", 128)
    experts = config.experts(config.count("num_local_experts", 128), 4, renormalize=True, bias=True)
    limit = config.number("swiglu_limit", LIMIT)
    feed_forward = _feed_forward(config.count("intermediate_size", 2880), limit, experts)
    n_layers = config.layer_count()
    kinds = config.layer_kinds([SLIDING if i % 2 == 0 else FULL for i in range(n_layers)])
    attention = AttentionSpec(
        config.count("num_attention_heads", 64), config.kv_heads(8), head_dim, rope, sinks=True,
        qkv_bias=bias, output_bias=bias,
    )  # fmt: skip
    layer = LayerSpec(attention, feed_forward)
    layers = [layer.windowed(window if kind == SLIDING else None) for kind in kinds]
    return config.model("gptoss", layers, default_context=131072, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, window = config.head_dim(), config.count("attention.sliding_window", 128)
    attention = config.attention(head_dim, _rope(config, head_dim), sinks=True)
    config.optional("feed_forward_length")  # as the experts'
    feed_forward = _feed_forward(
        config.count("expert_feed_forward_length"), LIMIT,
        config.experts(renormalize=True, bias=config.has("blk.0.ffn_gate_inp.bias")),
    )  # fmt: skip
    layer = LayerSpec(attention, feed_forward)
    slides = config.pattern("attention.sliding_window_pattern", 2)
    return config.model("gptoss", [layer.windowed(window if sliding else None) for sliding in slides])


def _rope(config: GGUFConfig, head_dim: int) -> Rope:
    """Return the rotation, with bounds of YaRN that are no whole numbers, as the model was trained; GGUF has
    no field for that."""
    rope = config.rope(head_dim, 150000.0)
    return rope if rope.scaling is None else replace(rope, scaling=replace(rope.scaling, truncate=False))


def _feed_forward(hidden_dim: int, limit: float, experts: Experts) -> FeedForwardSpec:
    return FeedForwardSpec(hidden_dim, "quick_gelu", limit, bias=True, up_offset=1.0, experts=experts)


@dataclass(frozen=True)
class _Form:
    """Tensors of all experts: how their names end, their dimensions, and how an expert's own name ends."""

    ending: str
    dimensions: int
    own: str


_FLOATS, _BLOCKS = _Form("", 3, ".weight"), _Form("_blocks", 4, ".weight_packed")
_FORMS = (_FLOATS, _BLOCKS, _Form("_bias", 2, ".bias"), _Form("_scales", 3, ".weight_scale"))
_PROJECTIONS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def split_experts(tensors: Directory) -> Directory:
    """Take the experts' tensors apart: `mlp.experts.gate_up_proj`, [experts, inputs, outputs] or, in blocks
    of 4-bit floats, [experts, outputs, blocks, bytes], whose outputs are a gate's and an up's in turn.

    A part of a tensor is a tensor with other strides: nothing is read. Raises ValueError naming a tensor that
    is not of so many experts, or of an odd number of outputs of gates and ups.
    """
    found: dict[str, FileTensor] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".experts.")
        named = ((p, f) for p in _PROJECTIONS for f in _FORMS if kind == p + f.ending)
        projection, form = next(named, ("", None))
        if form is None or len(tensor.shape) != form.dimensions:
            found[name] = tensor
            continue
        outputs = _PROJECTIONS[projection]
        if 0 in tensor.shape or tensor.shape[0] > MAX_EXPERTS:
            raise _refused(name, tensor, f"no matrices of 1 to {MAX_EXPERTS} experts")
        if _of_expert(tensor, 0, form).shape[0] % len(outputs):
            raise _refused(name, tensor, "and has not as many outputs of gates as of ups")
        for i in range(tensor.shape[0]):
            for output, part in zip(outputs, _parts(_of_expert(tensor, i, form), len(outputs)), strict=True):
                found[f"{module}.experts.{i}.{output}{form.own}"] = part
    return found


def _refused(name: str, tensor: FileTensor, why: str) -> ValueError:
    return ValueError(f"{tensor.path}: tensor {name} is {list(tensor.shape)}, {why}: download it again")


def _of_expert(tensor: FileTensor, number: int, form: _Form) -> FileTensor:
    """Return an expert's part, its outputs the first dimension."""
    start = tensor.start + number * tensor.strides[0] * ITEM_BYTES[tensor.dtype]
    shape, strides = tensor.shape[1:], tensor.strides[1:]
    if form == _FLOATS:
        shape, strides = shape[::-1], strides[::-1]
    elif form == _BLOCKS:  # a row's blocks follow one another
        shape, strides = (shape[0], math.prod(shape[1:])), (strides[0], strides[2])
    return replace(tensor, start=start, shape=shape, strides=strides)


def _parts(tensor: FileTensor, count: int) -> Iterator[FileTensor]:
    """Yield the outputs 0, count, 2 count, ..., then those behind these."""
    for part in range(count):
        yield replace(
            tensor,
            start=tensor.start + part * tensor.strides[0] * ITEM_BYTES[tensor.dtype],
            shape=(tensor.shape[0] // count, *tensor.shape[1:]),
            strides=(tensor.strides[0] * count, *tensor.strides[1:]),
        )


FAMILY = Family(
    "gptoss",
    hf=HFSource(
        ("GptOssForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_GPT_OSS, HF_IGNORED), split=split_experts
    ),
    gguf=GGUFSource("gpt-oss", from_gguf, TensorNames(GGUF_NAMES | GGUF_GPT_OSS, GGUF_IGNORED)),
)
