"""Writes any checkpoint of the Llama family, in any format that the exporter reads, as a GGUF file.

    python -m scripts.bench.write_gguf MODEL FILE [--dtype bf16|fp16|fp32]

Quantized weights are dequantized; the tokenizer goes along.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families.llama import FAMILY
from exporter.families.sources.llama3_rope import llama3_divisors
from exporter.families.sources.names import GGUF_ROPE_FACTORS
from exporter.formats.gguf_file import read_gguf
from exporter.model.config import ModelConfig
from exporter.model.matrices import parameter_shapes
from exporter.util.files import check_writable, written_whole
from exporter.util.progress import at_most_once_a_second
from scripts.bench.command_line import Parser, exit_status, note

KINDS = {
    "bf16": (torch.bfloat16, gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "fp16": (torch.float16, gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "fp32": (torch.float32, gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
TOKENIZER = "tokenizer."


def write_gguf(
    model: str,
    path: Path,
    dtype: str = "bf16",
    progress: Callable[[str], None] = lambda text: None,
    tokenizer: Path | None = None,
) -> None:
    """Vectors are stored as float32, as llama.cpp's own converter does, matrices in `dtype`.

    `tokenizer`, a tokenizer.json or a GGUF file, replaces the checkpoint's own. Raises ValueError
    or OSError with one line that names what is wrong.
    """
    check_writable(path)
    checkpoint = open_checkpoint(model, tokenizer=tokenizer)
    config = checkpoint.config
    if checkpoint.tokenizer_path is None:
        raise ValueError(f"{model} has no tokenizer beside it: give a whole checkpoint")
    torch_dtype, kind, file_type = KINDS[dtype]
    with written_whole(path) as part:
        writer = gguf.GGUFWriter(part, "llama")
        _add_config(writer, checkpoint.name, config)
        writer.add_file_type(file_type)
        _add_tokenizer(writer, checkpoint.tokenizer_path)
        names = replace(checkpoint.weights, names=FAMILY.gguf.names)
        shapes = parameter_shapes(config)
        factors = _rope_factors(config)
        if factors is not None:
            _add_tensor(writer, GGUF_ROPE_FACTORS, factors.shape, torch_dtype, kind)
        for name, shape in shapes.items():
            _add_tensor(writer, names.stored_name(name), shape, torch_dtype, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        report, weights = at_most_once_a_second(progress), checkpoint.weights
        for index, (name, shape) in enumerate(shapes.items()):
            report(f"writing {path.name}: {index} of {len(shapes)} tensors")
            wanted = torch.float32 if len(shape) == 1 else torch_dtype
            tensor = weights.read(weights.stored_name(name), wanted)
            if not weights.names.interleaved and name.split(".")[-2] in ("wq", "wk"):
                tensor = interleaved(tensor, config.layers[0].attention.head_dim)
            tensor = tensor.contiguous()
            writer.write_tensor_data(tensor.flatten().view(torch.uint8).numpy())
        writer.close()


def interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of checkpoint.tensors.half_split: pairs half a head apart become neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kind: gguf.GGMLQuantizationType,
) -> None:
    if len(shape) == 1:
        dtype, kind = torch.float32, gguf.GGMLQuantizationType.F32
    size = int(np.prod(shape)) * dtype.itemsize
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)


def _add_config(writer: gguf.GGUFWriter, name: str, config: ModelConfig) -> None:
    attention, rope = config.layers[0].attention, config.layers[0].attention.rope
    writer.add_name(name)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.layers[0].feed_forward.hidden_dim)
    writer.add_head_count(attention.n_heads)
    writer.add_head_count_kv(attention.n_kv_heads)
    writer.add_key_length(attention.head_dim)
    writer.add_value_length(attention.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(attention.head_dim)
    writer.add_rope_freq_base(rope.theta)
    writer.add_vocab_size(config.vocab_size)
    if attention.window is not None:
        writer.add_sliding_window(attention.window)
    if rope.scaling is not None and rope.scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.scaling.factor)


def _rope_factors(config: ModelConfig) -> np.ndarray | None:
    rope = config.layers[0].attention.rope
    if rope.scaling is None or rope.scaling.kind != "llama3":
        return None
    return np.array(llama3_divisors(rope), np.float32)


def _add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    if path.suffix == ".gguf":
        _copy_tokenizer(writer, read_gguf(path).fields)
    elif path.name == "tokenizer.json":
        _convert_tokenizer(writer, path)
    else:
        raise ValueError(f"{path}: only a tokenizer.json or a GGUF's own tokenizer is written")


def _copy_tokenizer(writer: gguf.GGUFWriter, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        if not name.startswith(TOKENIZER):
            continue
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            raise ValueError(f"field {name} holds a {type(value).__name__}: use another GGUF file")


def _convert_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """The one kind that llama.cpp calls "gpt-2": byte-level BPE split by GPT-2's pattern."""
    content = json.loads(path.read_text(encoding="utf-8"))
    split = content.get("pre_tokenizer") or {}
    if split.get("type") != "ByteLevel" or not split.get("use_regex", True):
        raise ValueError(f"{path}: only byte-level BPE with GPT-2's pattern is written to GGUF")
    ids = dict(content["model"]["vocab"])
    special = set()
    for token in content["added_tokens"]:
        ids[token["content"]] = token["id"]
        special.add(token["content"])
    tokens = sorted(ids, key=ids.get)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"{path}: the token ids have gaps")
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    config = json.loads((path.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    writer.add_bos_token_id(ids[config["bos_token"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_add_bos_token(False)


def main(arguments: list[str]) -> int:
    parser = Parser(prog="write_gguf", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="alias, folder or .gguf file")
    parser.add_argument("file", metavar="FILE", type=Path, help="the GGUF file to write")
    parser.add_argument("--dtype", choices=KINDS, default="bf16", help="default: bf16")
    options = parser.parse_args(arguments)
    write_gguf(options.model, options.file, options.dtype, note)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
