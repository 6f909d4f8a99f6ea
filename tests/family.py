"""What every family of models is held to, on tiny random checkpoints of both sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import tiny
import torch
import transformers

from exporter.model.config import ModelConfig

# Widths are multiples of 32, so that the models can be quantized by groups.
SMALL = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "attn_implementation": "eager",
}


def as_it_is(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: tensor}


@dataclass(frozen=True)
class Case:
    """A tiny model of a family.

    `config` are the fields beside SMALL; `gguf_fields` writes those that only this architecture has, among
    them the epsilon of layer norms; `norm_offset` is what llama.cpp's converter adds to the norms;
    `permuted`: it puts the rows that turn together beside each other; `gguf_tensors` renames, splits or joins
    one of transformers' tensors as it does, or leaves it out; `gguf_of_model` writes fields of tensors;
    `older` makes a config.json as transformers 4 wrote it.
    """

    model: type
    architecture: gguf.MODEL_ARCH
    config: Mapping[str, object]
    gguf_fields: Callable[[gguf.GGUFWriter, transformers.PretrainedConfig], None]
    norm_offset: float = 0.0
    permuted: bool = False
    gguf_tensors: Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]] = as_it_is
    gguf_of_model: Callable[[gguf.GGUFWriter, transformers.PreTrainedModel], None] | None = None
    older: Callable[[dict], dict] | None = None


def experts_apart(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Name the experts' tensors as llama.cpp's converter does: gates and ups apart, each of all experts."""
    module, _, kind = name.rpartition(".")
    if not module.endswith("experts"):
        return {name: tensor}
    if kind == "down_proj":
        return {f"{name}.weight": tensor}
    gate, up = tensor.chunk(2, dim=1)
    return {f"{module}.gate_proj.weight": gate, f"{module}.up_proj.weight": up}


def write_heads_and_base(writer: gguf.GGUFWriter, config: transformers.PretrainedConfig) -> None:
    """Write the fields of a head's width and of the one rotary base that all layers share."""
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def with_older_rope(config: dict) -> dict:
    """Spell the rotation of a config.json as transformers 4 did, without kinds of layers."""
    rope = config["rope_parameters"]
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")}
    return kept | {"rope_theta": rope["rope_theta"], "rope_scaling": None}


def with_layers(config: ModelConfig, **change) -> ModelConfig:
    """Change fields of every layer."""
    return replace(config, layers=tuple(replace(layer, **change) for layer in config.layers))


def with_attention(config: ModelConfig, **change) -> ModelConfig:
    """Change fields of every layer's attention."""
    layers = (replace(layer, attention=replace(layer.attention, **change)) for layer in config.layers)
    return replace(config, layers=tuple(layers))


def with_feed_forward(config: ModelConfig, **change) -> ModelConfig:
    """Change fields of every layer's feed-forward."""
    layers = (replace(layer, feed_forward=replace(layer.feed_forward, **change)) for layer in config.layers)
    return replace(config, layers=tuple(layers))


def make_hf(folder: Path, case: Case, **change: object) -> transformers.PreTrainedModel:
    """Saves a Hugging Face folder with a tokenizer and returns its float32 model."""
    torch.manual_seed(3)
    config = case.model.config_class(**{**SMALL, **case.config, **change})
    model = case.model(config)
    for name, parameter in model.named_parameters():
        mean = 1.0 - case.norm_offset if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean=mean, std=0.2)
    model.eval().requires_grad_(False).save_pretrained(folder)
    tiny.train_tokenizer().save(str(folder / "tokenizer.json"))
    tiny.write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    return model


def write_gguf(path: Path, model: transformers.PreTrainedModel, case: Case) -> None:
    """Saves a GGUF file as llama.cpp's converter would: its names, and norms with what the model adds."""
    config = model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[case.architecture])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    case.gguf_fields(writer, config)
    if case.gguf_of_model is not None:
        case.gguf_of_model(writer, model)
    tiny.add_tokenizer(writer)
    names = gguf.get_tensor_name_map(case.architecture, config.num_hidden_layers)
    for whole_name, whole in model.state_dict().items():
        if whole_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for name, tensor in case.gguf_tensors(whole_name, whole).items():
            if name.endswith("norm.weight"):
                tensor = tensor + case.norm_offset
            if case.permuted and name.split(".")[-2] in ("q_proj", "k_proj"):
                tensor = tiny.interleaved(tensor, config.head_dim)
            stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(stored, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
