"""The values that a family's file gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.meta import MetaConfig
from exporter.model.config import ModelConfig

if TYPE_CHECKING:  # it loads numpy, which finding a family does without
    from exporter.formats.file_tensor import Directory


@dataclass(frozen=True)
class TensorNames:
    """A source's names of the tensors, and how it stores them.

    `modules` maps canonical module names, `{i}` being the layer and `{n}` the expert, to the source's, or to
    several of which a file has one. Modules of one name share a tensor: their rows, one after the other, in
    the order in which `model.matrices` lists them. `ignored` holds patterns of stored names that carry
    nothing. `interleaved`: rotary pairs of wq and wk are neighbouring rows, not half a head apart.
    `norm_offset` is what the model adds to every norm's stored weight.
    """

    modules: Mapping[str, str | tuple[str, ...]]
    ignored: tuple[str, ...] = ()
    interleaved: bool = False
    norm_offset: float = 0.0


@dataclass(frozen=True)
class HFSource:
    """Hugging Face: the `architectures` of config.json that are this family's. `refused` are relatives that
    are not read, each with the reason and the remedy. `split` takes tensors apart that hold several matrices
    otherwise than one's rows after another's."""

    architectures: tuple[str, ...]
    read: Callable[[HFConfig], ModelConfig]
    names: TensorNames
    refused: Mapping[str, str] = field(default_factory=dict)
    split: Callable[[Directory], Directory] = dict


@dataclass(frozen=True)
class GGUFSource:
    """GGUF: the `general.architecture` of this family, which is the prefix of its fields, too."""

    architecture: str
    read: Callable[[GGUFConfig], ModelConfig]
    names: TensorNames


@dataclass(frozen=True)
class MetaSource:
    """Meta's params.json beside consolidated.*.pth. It names no family: one family reads it."""

    read: Callable[[MetaConfig], ModelConfig]
    names: TensorNames


@dataclass(frozen=True)
class Family:
    """`name` is the artifact's `model_family`, and the name of the file that has it."""

    name: str
    hf: HFSource | None = None
    gguf: GGUFSource | None = None
    meta: MetaSource | None = None
