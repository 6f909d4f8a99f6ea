"""Read Hugging Face folders: config.json, safetensors or pytorch_model.bin, single or sharded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from exporter.checkpoint.weights import (
    TOKENIZERS,
    CheckpointDescription,
    Read,
    Weights,
    first_existing,
    read_json,
)
from exporter.families.sources.family import TensorNames
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.registry import hf_family
from exporter.formats import safetensors_file
from exporter.formats.file_tensor import Directory, FileTensor, same_bits
from exporter.formats.prequantized.matrix import StoredMatrix
from exporter.formats.prequantized.methods import Dequantized, Matrices, dequantized, find_method
from exporter.formats.quantized_names import FLOATS
from exporter.formats.torch_file import read_torch_file
from exporter.model.config import ModelConfig
from exporter.model.generation_settings import BEGIN_AND_END, from_config

HF_EMBEDDING, HF_OUTPUT = "model.embed_tokens.weight", "lm_head.weight"

OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "*.onnx", "*.ot", "*.mlmodel")


def read_hf(folder: Path) -> CheckpointDescription:
    """Read the folder's config and map its weights.

    Raises ValueError or OSError naming the file that is missing, damaged or unsupported.
    """
    config_path = folder / "config.json"
    fields = read_json(config_path)
    quantization = fields.get("quantization_config")

    @cache
    def directory() -> Directory:
        return _directory(weight_files(folder))

    def numbers(name: str) -> list[float]:
        return directory()[name].numbers() if name in directory() else []

    try:
        family = hf_family(fields, lambda: _names_at_hand(folder)).hf
        method = find_method(quantization) if isinstance(quantization, Mapping) else None
        others = {name: value for name, value in fields.items() if name != "quantization_config"}
        config = family.read(HFConfig(fields if method is None else others, numbers))
    except ValueError as error:
        raise ValueError(f"{config_path}: {error}") from error
    files, tensors, stored = weight_files(folder), family.split(directory()), Dequantized({}, {})
    if method is not None:
        stored = _found(folder, tensors, method)
        tensors = stored.others
    config = _with_one_table(config, tensors)
    weights = _weights(files, tensors, stored.matrices, family.names)
    for name in stored.zero_biases():
        weights = weights.without(name)
    generation_path = folder / "generation_config.json"
    return CheckpointDescription(
        config=config,
        weights=_tied(weights, config, tensors, config_path),
        tokenizer_path=first_existing(folder, TOKENIZERS),
        generation=read_json(generation_path) if generation_path.is_file() else from_config(fields),
        token_ids={key: fields[key] for key in BEGIN_AND_END if key in fields},
        dequantized=stored.formats(),
    )


def _names_at_hand(folder: Path) -> Iterable[str]:
    """Return the tensors' names, none where the weights cannot be read."""
    try:
        return _directory(weight_files(folder))
    except (OSError, ValueError):
        return ()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Find the files that hold the weights: the first whole one of transformers' order.

    A single file goes before an index, which may be left from a copy that was sharded otherwise.
    Raises FileNotFoundError that says what is missing, ValueError for an index that is none.
    """
    incomplete = None
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return (folder / single,)
        index = folder / f"{single}.index.json"
        if index.is_file():
            files = _indexed_files(index)
            absent = [path.name for path in files if not path.is_file()]
            if not absent:
                return files
            incomplete = incomplete or (
                f"{folder} lacks {len(absent)} of {len(files)} shards that {index.name} lists "
                f"({absent[0]} first): download the rest of the checkpoint"
            )
    # Mistral's folders also hold a copy under Meta's names, consolidated.safetensors.
    others = [p for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated")]
    if incomplete is None and len(others) == 1:
        return (others[0],)
    raise FileNotFoundError(
        incomplete
        or f"{folder} holds no weights: expected model.safetensors, pytorch_model.bin or the index of "
        f"their shards{_instead(folder)}; download the whole checkpoint"
    )


def _instead(folder: Path) -> str:
    """Say which weights of other frameworks the folder holds, for an error's text."""
    others = [p.name for pattern in OTHER_FRAMEWORKS for p in sorted(folder.glob(pattern))]
    return f", not {others[0]}" if others else ""


def _indexed_files(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map: download it again")
    return tuple(index.parent / str(name) for name in sorted(set(weight_map.values())))


def _directory(files: tuple[Path, ...]) -> Directory:
    """Return the tensors of all shards. Raises ValueError for a name in two of them."""
    tensors: dict[str, FileTensor] = {}
    for path in files:
        found = _tensors(path)
        twice = tensors.keys() & found.keys()
        if twice:
            raise ValueError(
                f"{path}: tensor {min(twice)} is also in {tensors[min(twice)].path.name}: remove the file "
                "that does not belong to the checkpoint"
            )
        tensors |= found
    return tensors


def _tensors(path: Path) -> Directory:
    if path.suffix == ".safetensors":
        return safetensors_file.read_directory(path)
    content = read_torch_file(path)
    for name, value in content.items():
        if not isinstance(value, FileTensor):
            what = "an object of its own" if isinstance(value, Mapping) else f"{value!r:.80}, not a tensor"
            raise ValueError(f"{path}: {name} is {what}: save the model's state_dict alone (torch.save)")
    return content


def _found(folder: Path, tensors: Directory, method: Matrices) -> Dequantized:
    try:
        return dequantized(tensors, method)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _weights(
    files: tuple[Path, ...], tensors: Directory, matrices: Mapping[str, StoredMatrix], names: TensorNames
) -> Weights:
    def read() -> Read:
        from exporter.checkpoint.tensors import open_dequantized, open_tensors  # torch takes seconds

        plain = open_tensors({name: (tensor,) for name, tensor in tensors.items()}, {})
        return open_dequantized(matrices, plain) if matrices else plain

    whole = {**tensors, **matrices}
    return Weights(
        files=files,
        shapes={name: tuple(tensor.shape) for name, tensor in whole.items()},
        open=read,
        names=names,
        types={name: tensor.dtype for name, tensor in tensors.items()},
    )


def _with_one_table(config: ModelConfig, tensors: Directory) -> ModelConfig:
    """Return the config of a tied model where the output layer is stored, and is the embedding bit by bit."""
    pair = [tensors.get(name) for name in (HF_EMBEDDING, HF_OUTPUT)]
    one = None not in pair and pair[0].dtype in FLOATS and same_bits(*pair)
    return replace(config, tied_embeddings=True) if one else config


def _tied(weights: Weights, config: ModelConfig, tensors: Directory, config_path: Path) -> Weights:
    """Return `weights` of a model whose embedding and output layer may be one tensor: files hold it under the
    one name, the other, or both."""
    if not config.tied_embeddings or HF_OUTPUT not in weights.shapes:
        return weights
    if HF_OUTPUT not in tensors:
        raise ValueError(
            f"{config_path}: tie_word_embeddings is true, but {HF_OUTPUT} is stored quantized beside "
            f"{HF_EMBEDDING}: set it to false to use both"
        )
    if HF_EMBEDDING not in tensors:
        return weights.renamed("tok_embeddings", HF_OUTPUT.removesuffix(".weight"))
    if tensors[HF_EMBEDDING].dtype in FLOATS and not same_bits(tensors[HF_EMBEDDING], tensors[HF_OUTPUT]):
        raise ValueError(
            f"{config_path}: tie_word_embeddings is true, but {HF_OUTPUT} differs from {HF_EMBEDDING}: "
            "set it to false to use both"
        )
    return weights.without(HF_OUTPUT)
