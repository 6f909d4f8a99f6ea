"""Read adapters in PEFT's format without torch: adapter_config.json beside adapter_model.safetensors or .bin.

Of LoRA (arXiv 2106.09685) a weight W becomes W + factor · B · A; other kinds are refused by name. Sources:
peft's LoraConfig, its layers' `get_delta_weight`, and the names that `get_peft_model_state_dict` writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.formats import safetensors_file
from exporter.formats.file_kind import check_content
from exporter.formats.file_tensor import Directory, FileTensor
from exporter.formats.quantized_names import FLOATS
from exporter.formats.torch_file import read_torch_file

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."  # of every tensor's name
MERGE_FIRST = (
    "merge it first (peft: AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload()"
    ".save_pretrained(OUT), and copy the tokenizer to OUT), then export OUT"
)
# Fields that say how an adapter was trained or made, or what its tensors say themselves. `fan_in_fan_out`
# is about layers that store [in, out], which no model here has; peft sets it to false for all others.
HARMLESS = frozenset(
    """alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config
    exclude_modules fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform
    loftq_config lora_alpha lora_dropout lora_ga_config megatron_core modules_to_save peft_type peft_version
    qalora_group_size r rank_pattern revision runtime_config target_modules task_type use_rslora""".split()
)
# Of `init_lora_weights`: those that leave the base model's weights as they are.
INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")
# The ends of a pair's names: those of B, [out, r], and A, [r, in]; an embedding's are [dim, r] and
# [r, vocabulary], and what they add is transposed.
_LINEAR, _EMBEDDING = (".lora_B.weight", ".lora_A.weight"), (".lora_embedding_B", ".lora_embedding_A")


@dataclass(frozen=True)
class LowRank:
    """What is added to a weight: `factor` · B · A, of `shape`; transposed where `transposed`. `rows` are
    those that are wanted of a tensor that is several weights'."""

    b: FileTensor
    a: FileTensor
    factor: float
    transposed: bool
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, int]:
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter's tensors by the names that its base model gives its weights. `base` is what its config
    names; `tied`: it was trained with embedding and output layer held equal."""

    folder: Path
    files: tuple[Path, ...]
    base: str | None
    tied: bool
    added: Mapping[str, LowRank]
    replaced: Directory  # whole tensors
    kept: Directory  # copies of the base model's own tensors, which low-rank ones are added to


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def refuse_adapter(folder: Path) -> None:
    """Raise ValueError where `folder`, given as a model, holds an adapter, alone or beside a base model.

    A base model beside it would be exported without what the adapter changes.
    """
    if not is_adapter(folder):
        return
    try:
        fields = _fields(folder)
    except ValueError:  # what it changes is not known then; that it is there is enough
        fields = {}
    kind = fields.get("peft_type") or fields.get("fine_tune_type") or "adapter"
    base = fields.get("base_model_name_or_path") or fields.get("model")
    whole = (folder / "config.json").is_file()
    raise ValueError(
        f"{folder} holds an adapter ({CONFIG}: {kind}{f' of {base}' if base else ''}), not a model: give its "
        f"base model and the adapter: {folder if whole else base or 'MODEL'} --adapter {folder}"
        + (f"; or remove {CONFIG} to export the base model beside it as it is" if whole else "")
    )


def read_adapter(folder: Path) -> PeftAdapter:
    """Read an adapter's config and where its tensors lie.

    Raises ValueError or OSError, with a line that names what is missing, damaged, or cannot be merged.
    """
    if not is_adapter(folder):
        raise FileNotFoundError(f"adapter {folder} has no {CONFIG}: give a folder in PEFT's format")
    try:
        fields = _fields(folder)
        _check(fields)
        path = _weights_file(folder)
        tensors = _tensors(path)
        added, replaced, kept = _sorted(tensors, fields)
    except ValueError as error:
        raise ValueError(f"adapter {folder}: {error}") from error
    return PeftAdapter(
        folder, (folder / CONFIG, path), fields.get("base_model_name_or_path") or None,
        bool(fields.get("ensure_weight_tying")), added, replaced, kept,
    )  # fmt: skip


def _fields(folder: Path) -> dict[str, object]:
    check_content(folder / CONFIG)
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} is not valid JSON ({error}): download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{CONFIG} holds a JSON {type(found).__name__}, not an object: download it again")
    return found


def _check(fields: Mapping[str, object]) -> None:
    """Raise ValueError for what is not plain LoRA, naming the field."""
    kind = fields.get("peft_type")
    if kind is None and "fine_tune_type" in fields:
        raise ValueError("it is in MLX's format, not PEFT's: merge it first (mlx_lm.fuse), then export that")
    if kind != "LORA":
        raise ValueError(f"peft_type {kind!r} is not merged here, LORA is: {MERGE_FIRST}")
    if fields.get("task_type") not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"task_type {fields['task_type']!r} is not a language model's: give an adapter of CAUSAL_LM"
        )
    if fields.get("bias", "none") != "none":
        raise ValueError(f"bias {fields['bias']!r} trains biases, which are not merged here: {MERGE_FIRST}")
    made = fields.get("init_lora_weights")
    if made not in INITIALIZATIONS:
        raise ValueError(
            f"init_lora_weights {made!r} changes the base model's weights too: save it with peft's "
            "path_initial_model_for_weight_conversion, or " + MERGE_FIRST
        )
    for name, value in fields.items():
        if name not in HARMLESS and value not in (None, False, 0) and value not in ({}, [], ""):
            raise ValueError(
                f"field {name!r} (value {value!r}) changes what is computed and is not merged here: "
                f"{MERGE_FIRST}"
            )


def _weights_file(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"it has neither {' nor '.join(WEIGHTS)}: download the rest of it")
    return found


def _tensors(path: Path) -> Directory:
    if path.suffix == ".safetensors":
        return safetensors_file.read_directory(path)
    return {name: value for name, value in read_torch_file(path).items() if isinstance(value, FileTensor)}


def _sorted(
    tensors: Directory, fields: Mapping[str, object]
) -> tuple[dict[str, LowRank], dict[str, FileTensor], dict[str, FileTensor]]:
    """Return what the tensors add, replace and keep. Raises ValueError naming a tensor that does none."""
    if not tensors:
        raise ValueError("it holds no tensors: download it again")
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            raise ValueError(f"tensor {name} does not begin with {PREFIX!r}, as PEFT's do: {MERGE_FIRST}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"tensor {name} holds {tensor.dtype}, not floats of 16 bits or more: save it so")
    added, replaced, kept = {}, {}, {}
    for name, tensor in tensors.items():
        stored = name.removeprefix(PREFIX)
        ends = next((ends for ends in (_LINEAR, _EMBEDDING) if name.endswith(ends)), None)
        if ends is not None:
            module = stored.removesuffix(ends[0]).removesuffix(ends[1])
            added[f"{module}.weight"] = _low_rank(tensors, module, ends, fields)
        elif ".lora_" in name:
            raise ValueError(f"tensor {name} is not of plain LoRA: {MERGE_FIRST}")
        elif ".base_layer." in name:
            kept[stored.replace(".base_layer.", ".")] = tensor
        else:
            replaced[stored.replace(".modules_to_save.", ".")] = tensor
    return added, replaced, kept


def _low_rank(
    tensors: Directory, module: str, ends: tuple[str, str], fields: Mapping[str, object]
) -> LowRank:
    names = [f"{PREFIX}{module}{end}" for end in ends]
    for name in names:
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing beside its other half: download it again")
    b, a = (tensors[name] for name in names)
    rank = _of_module(fields, "r", "rank_pattern", module)
    if len(a.shape) != 2 or len(b.shape) != 2 or (a.shape[0], b.shape[1]) != (rank, rank) or 0 in a.shape:
        raise ValueError(
            f"tensors {names[0]} {list(b.shape)} and {names[1]} {list(a.shape)} are not of rank {rank:g}, as "
            f"{CONFIG} says: download it again"
        )
    alpha = _of_module(fields, "lora_alpha", "alpha_pattern", module)
    return LowRank(b, a, alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank), ends == _EMBEDDING)


def _of_module(fields: Mapping[str, object], name: str, pattern: str, module: str) -> float:
    """Return the field `name` for a module: what the first fitting regular expression of `pattern` says, as
    peft matches it, or the field itself."""
    value, patterns = fields.get(name), fields.get(pattern) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"field {pattern!r} is {patterns!r}, not an object: download it again")
    for key, own in patterns.items():
        try:
            fits = re.match(rf"(.*\.)?({key})$", module)
        except re.error as error:
            raise ValueError(f"{pattern} {key!r} is no regular expression ({error}): correct it") from error
        if fits:
            value = own
            break
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or name == "r" and value < 1:
        raise ValueError(f"field {name!r} of {module} is {value!r}, not a number: download it again")
    return value
