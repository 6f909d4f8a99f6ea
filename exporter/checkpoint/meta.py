"""Read Meta folders (consolidated.*.pth, params.json) and Karpathy's llama2.c files (stories15M.pt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exporter.checkpoint.weights import CheckpointDescription, Read, Weights, first_existing, read_json
from exporter.families.sources.meta import MetaConfig
from exporter.families.sources.registry import meta_family
from exporter.formats.file_tensor import Directory, FileTensor, same_bits
from exporter.formats.torch_file import read_torch_file
from exporter.model.config import ModelConfig
from exporter.model.matrices import parameter_shapes

META_EMBEDDING, META_OUTPUT, META_GATE = (
    "tok_embeddings.weight",
    "output.weight",
    "layers.0.feed_forward.w1.weight",
)
COMPILED_PREFIX = "_orig_mod."  # left by torch.compile in llama2.c's files


def read_meta(path: Path) -> CheckpointDescription:
    """Read a folder of consolidated.*.pth and params.json, or one .pt or .pth file.

    Raises ValueError or OSError naming the file that is missing, damaged or unsupported.
    """
    folder = path if path.is_dir() else path.parent
    files = tuple(sorted(path.glob("consolidated.*.pth"))) if path.is_dir() else (path,)
    if not files:
        raise FileNotFoundError(
            f"{folder} holds params.json but no consolidated.*.pth: download the whole checkpoint"
        )
    params, shards = _open(files)
    params_path = folder / "params.json" if params is None else files[0]
    if params is None:
        params = read_json(params_path)
    config = _config(params, params_path, shards, files[0])
    weights = _weights(config, shards, files)
    if all(same_bits(shard[META_EMBEDDING], shard[META_OUTPUT]) for shard in shards):
        config = replace(config, tied_embeddings=True)
        weights = weights.without(META_OUTPUT)
    beside = [first_existing(place, ("tokenizer.model",)) for place in (folder, folder.parent)]
    return CheckpointDescription(config, weights, beside[0] or beside[1], generation={})


def _open(files: Sequence[Path]) -> tuple[Mapping[str, object] | None, list[Directory]]:
    """Read the parameters that the only file holds itself, or None, and the tensors of all files."""
    contents = [read_torch_file(file) for file in files]
    if all(isinstance(contents[0].get(key), Mapping) for key in ("model", "model_args")):
        return contents[0]["model_args"], [_tensors(contents[0]["model"])]
    return None, [_tensors(content) for content in contents]


def _tensors(content: Mapping[str, object]) -> Directory:
    return {
        name.removeprefix(COMPILED_PREFIX): value
        for name, value in content.items()
        if isinstance(value, FileTensor)
    }


def _config(
    params: Mapping[str, object], params_path: Path, shards: Sequence[Directory], first_file: Path
) -> ModelConfig:
    first = shards[0]
    for name in (META_EMBEDDING, META_OUTPUT, META_GATE):
        if name not in first or len(first[name].shape) != 2:
            raise ValueError(
                f"{first_file} has no matrix {name}: give a checkpoint of the Llama family in Meta's format"
            )
    try:
        # In every release w1 and output are split by rows.
        rows = {name: first[name].shape[0] * len(shards) for name in (META_OUTPUT, META_GATE)}
        return meta_family().meta.read(MetaConfig(params, rows[META_OUTPUT], rows[META_GATE]))
    except ValueError as error:
        raise ValueError(f"{params_path}: {error}") from error


def _weights(config: ModelConfig, shards: Sequence[Directory], files: tuple[Path, ...]) -> Weights:
    """Return the weights with their shards joined, each tensor when it is read."""
    expected = parameter_shapes(config)
    split_dims = {
        name: _split_dim(tensor.shape, expected.get(name), len(shards))
        for name, tensor in shards[0].items()
    }
    shapes = {}
    for name, tensor in shards[0].items():
        dim = split_dims[name]
        shape = list(tensor.shape)
        if dim is not None:
            shape[dim] *= len(shards)
        shapes[name] = tuple(shape)

    parts = {
        name: tuple(
            _part(shard, name, tensor, file) for shard, file in zip(shards, files, strict=True)
        )
        for name, tensor in shards[0].items()
    }

    def read() -> Read:
        from exporter.checkpoint.tensors import open_tensors  # torch takes seconds

        return open_tensors(parts, split_dims)

    return Weights(
        files, shapes, read, meta_family().meta.names,
        types={name: part.dtype for name, of_name in parts.items() for part in of_name},
    )  # fmt: skip


def _split_dim(shape: tuple[int, ...], whole: tuple[int, ...] | None, n_shards: int) -> int | None:
    """Return the dimension along which shards of `shape` make up `whole`; None where each is the whole.

    Meta splits wq, wk, wv, w1, w3 and output by rows, wo and w2 by columns, and the embedding by
    columns in Llama 2 and by rows in Llama 3. The norms are repeated.
    """
    if whole is None or len(shape) != len(whole):
        return None
    for dim in range(len(shape)):
        joined = list(shape)
        joined[dim] *= n_shards
        if n_shards > 1 and tuple(joined) == whole:
            return dim
    return None


def _part(shard: Directory, name: str, first: FileTensor, file: Path) -> FileTensor:
    found = shard.get(name)
    if found is None or (found.shape, found.dtype) != (first.shape, first.dtype):
        raise ValueError(
            f"{file} has no tensor {name} of shape {list(first.shape)} and type {first.dtype}, as "
            f"{first.path.name} has: give the shards of one checkpoint"
        )
    return found
