"""Writes a Hugging Face folder of random weights, a block of rows at a time."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from exporter.checkpoint.weights import stored_names, whole_shapes
from exporter.families.llama import FAMILY
from exporter.families.sources.family import TensorNames
from exporter.model.config import ModelConfig, RopeScaling
from exporter.model.matrices import parameter_shapes
from exporter.util.files import disk_full_named

Shape = tuple[int, ...]
BYTES_A_SHARD = 1 << 30
VALUES_AT_ONCE = 1 << 22
BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class FloatType:
    """A dtype's names: PyTorch's, safetensors'; and its size."""

    torch: torch.dtype
    safetensors: str
    size: int


FLOAT_TYPES = {
    "bf16": FloatType(torch.bfloat16, "BF16", 2),
    "fp16": FloatType(torch.float16, "F16", 2),
    "fp32": FloatType(torch.float32, "F32", 4),
}


def write_folder(
    folder: Path, config: ModelConfig, dtype: str, seed: int, progress: Callable[[str], None],
    rows: Callable[[str, Shape, int], Iterator[Tensor]] | None = None,
) -> None:  # fmt: skip
    """Writes config, tokenizer and weights to `folder`, which appears when it is complete.

    `rows` makes a tensor's rows, `random_rows` where there is none. The same arguments give the same
    bytes. Raises OSError where `folder` exists or cannot be made.
    """
    with folder_written_whole(folder) as part:
        write_json(part / "config.json", hf_config(config, FLOAT_TYPES[dtype]))
        write_json(part / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
        write_json(part / "tokenizer.json", tokenizer_json(config.vocab_size))
        write_json(part / "tokenizer_config.json", {"bos_token": BOS, "eos_token": EOS})
        write_weights(
            part, config, FLOAT_TYPES[dtype],
            lambda name, shape: (rows or random_rows)(name, shape, seed), progress,
        )  # fmt: skip


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill; renamed to it on success, removed otherwise.

    Raises OSError where `folder` exists or cannot be made.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it or choose another name")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent}: no such folder; create it or choose another")
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)  # mkdtemp's own would keep others out
        with disk_full_named(str(folder)):
            yield part
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def hf_config(config: ModelConfig, dtype: FloatType) -> dict[str, object]:
    """`config.json` in the spelling of transformers 4, which version 5 reads as well."""
    attention, feed_forward = config.layers[0].attention, config.layers[0].feed_forward
    scaling = attention.rope.scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": attention.qkv_bias,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": attention.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": feed_forward.hidden_dim,
        "max_position_embeddings": config.context_length,
        "mlp_bias": feed_forward.bias,
        "num_attention_heads": attention.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": attention.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": None if scaling is None else _hf_rope(scaling),
        "rope_theta": attention.rope.theta,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": str(dtype.torch).removeprefix("torch."),
        "vocab_size": config.vocab_size,
    }


def _hf_rope(scaling: RopeScaling) -> dict[str, object]:
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }


def tokenizer_json(vocab_size: int) -> dict[str, object]:
    """A byte-level BPE of exactly `vocab_size` pieces whose loading costs what a real one's does.

    After the special tokens and the bytes come pieces of two bytes, then of three, each of them
    the merge of the piece without its last byte and that byte.
    """
    alphabet = sorted(ByteLevel.alphabet())
    pairs = list(itertools.product(alphabet, repeat=2))
    longer = (("".join(pair), last) for pair, last in itertools.product(pairs, alphabet))
    room = vocab_size - len(alphabet) - 2
    if room < 0:
        raise ValueError(f"a vocabulary of {vocab_size} has no room for 256 bytes and 2 tokens")
    merges = list(itertools.islice(itertools.chain(pairs, longer), room))
    pieces = [BOS, EOS, *alphabet, *(left + right for left, right in merges)]
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
    }  # fmt: skip
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": content, "special": True, **plain}
            for id, content in enumerate((BOS, EOS))
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: id for id, piece in enumerate(pieces)},
            "merges": [list(merge) for merge in merges],
        },
    }


def random_rows(name: str, shape: Shape, seed: int) -> Iterator[Tensor]:
    """A tensor's float32 rows, some at a time: normal, norms around 1.

    The standard deviation 1/sqrt(width), 0.022 for llama3.2-1b, keeps the activations' scale at any
    width. A generator of its own for each name keeps a tensor apart from the others' order.
    """
    generator = torch.Generator().manual_seed(seed * 0x9E3779B1 + _digest(name))
    if len(shape) == 1:
        mean = 1.0 if "norm" in name else 0.0
        yield mean + 0.02 * torch.randn(shape, generator=generator)
        return
    rows, width = shape
    step = max(1, VALUES_AT_ONCE // width)
    for first in range(0, rows, step):
        block = torch.randn(min(step, rows - first), width, generator=generator)
        yield block / math.sqrt(width)


def repeated_rows(name: str, shape: Shape, seed: int) -> Iterator[Tensor]:
    """A tensor's float32 rows as `random_rows` scales them, out of the same few values, each tensor's from
    another one on: for files whose size and speed matter, and not what is in them."""
    if len(shape) == 1:
        yield from random_rows(name, shape, seed)
        return
    rows, width = shape
    count = VALUES_AT_ONCE // 2 // width * width
    start = zlib.crc32(name.encode()) % (VALUES_AT_ONCE // 2)
    block = _some_values(seed)[start : start + count].view(-1, width) / math.sqrt(width)
    for first in range(0, rows, len(block)):
        yield block[: rows - first]


@functools.cache
def _some_values(seed: int) -> Tensor:
    return torch.randn(VALUES_AT_ONCE, generator=torch.Generator().manual_seed(seed))


def _digest(name: str) -> int:
    """A number from a name; Python's own hash differs from run to run."""
    return int.from_bytes(name.encode(), "big") % 0x7FFFFFFF


def write_weights(
    folder: Path,
    config: ModelConfig,
    dtype: FloatType,
    rows: Callable[[str, Shape], Iterable[Tensor]],
    progress: Callable[[str], None],
    names: TensorNames = FAMILY.hf.names,
    more: Mapping[str, Shape] = MappingProxyType({}),
) -> None:
    """Writes safetensors, in shards where they are large.

    `rows(name, shape)` gives a tensor's rows, some at a time, under its stored name: one of `names`, or of
    `more`, which are no parameters.
    """
    shapes = parameter_shapes(config)
    shapes = whole_shapes({name: stored_names(names, name)[0] for name in shapes}, shapes) | dict(more)
    shards = _shards(shapes, dtype)
    weight_map = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        file = "model.safetensors" if len(shards) == 1 else file
        progress(f"writing {file}")
        write_safetensors(folder / file, shard, dtype, rows)
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(_size(shape, dtype) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _shards(shapes: Mapping[str, Shape], dtype: FloatType) -> list[dict[str, Shape]]:
    """The tensors in order, a new shard where the next one would make it too large."""
    shards: list[dict[str, Shape]] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = _size(shape, dtype)
        if used and used + size > BYTES_A_SHARD:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards


def _size(shape: Shape, dtype: FloatType) -> int:
    return math.prod(shape) * dtype.size


def write_safetensors(
    path: Path,
    shapes: Mapping[str, Shape],
    dtype: FloatType,
    rows: Callable[[str, Shape], Iterable[Tensor]],
) -> None:
    """Format: huggingface.co/docs/safetensors. The library's own writer wants all in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _size(shape, dtype)
        header[name] = {"dtype": dtype.safetensors, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for block in rows(name, shape):
                block.to(dtype.torch).view(torch.uint8).numpy().tofile(file)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
