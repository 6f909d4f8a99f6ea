"""A GGUF file's metadata and tensors' shapes, each field read once.

Fields of a model begin with its architecture's name. One that no family's reader asked for is refused by
name, unless it is known to change nothing: it may change the computation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from exporter.families.sources.hf_rope import longrope_attention_factor, yarn_attention_factor
from exporter.families.sources.llama3_rope import fit_llama3
from exporter.model.config import (
    AttentionSpec,
    Experts,
    LayerSpec,
    ModelConfig,
    Rope,
    RopeScaling,
    check_layer_count,
    is_positive,
    repeated,
)

# The vocabulary follows from the tensors.
HARMLESS = frozenset(
    """rope.scaling.finetuned rope.scaling.original_context_length tensor_data_layout
    vocab_size""".split()
)
# Fields of every family whose other values change the computation.
NEUTRAL: dict[str, object] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "expert_shared_count": 0,
    "expert_shared_feed_forward_length": 0,
    "expert_weights_scale": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "use_parallel_residual": False,
}


class GGUFConfig:
    """Metadata `fields`, and the `shapes` of the tensors. Readers ask for fields by their names behind the
    architecture's; `model` refuses what nobody asked for.

    `rope_factors` is the content of the tensor `rope_freqs.weight`, if there is one, and `long_rope_factors`
    of `rope_factors_short.weight` and `rope_factors_long.weight`.
    """

    def __init__(
        self,
        fields: Mapping[str, object],
        shapes: Mapping[str, Sequence[int]],
        rope_factors: Sequence[float] | None,
        long_rope_factors: tuple[Sequence[float], Sequence[float]] | None = None,
    ):
        self.shapes, self._rope_factors, self._read_factors = shapes, rope_factors, False
        self._of_file, self.architecture = fields, fields.get("general.architecture")
        self._long_rope_factors, self._read_long_factors = long_rope_factors, False
        prefix = f"{self.architecture}."
        self.fields = {
            name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)
        }
        self._read: set[str] = set()

    def optional(self, name: str, default: object = None) -> object:
        """The field's value, `default` where it is missing."""
        self._read.add(name)
        return self.fields.get(name, default)

    def count(self, name: str, default: int | None = None) -> int:
        """The field's value, `default` where it is missing. Raises ValueError for one that is no count."""
        value = self.optional(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(
                f"field '{self.architecture}.{name}' is {value!r}, not a positive whole number: use another "
                "conversion of this checkpoint"
            )
        return value

    def only(self, name: str, value: object) -> None:
        """Raise ValueError when the field has another value than `value`."""
        found = self.optional(name, value)
        if found != value:
            raise ValueError(
                f"field '{self.architecture}.{name}' is {found!r}, but only {value!r} is supported: "
                "use a checkpoint with that value"
            )

    def head_dim(self, *, rotated_whole: bool = True) -> int:
        """The width of a head, which keys and values share, and the rotation where it turns whole heads."""
        dim, heads = self.count("embedding_length"), self.count("attention.head_count")
        head_dim = self.count("attention.key_length", dim // heads)
        for name in ("attention.value_length", *(("rope.dimension_count",) if rotated_whole else ())):
            if self.count(name, head_dim) != head_dim:
                raise ValueError(
                    f"{self.architecture}.{name} is {self.fields[name]!r}, but only the head size {head_dim} "
                    "is supported: use a checkpoint with that value"
                )
        return head_dim

    def layer_count(self) -> int:
        """`block_count`. Raises ValueError for a count that is none, or too large."""
        count = self.count("block_count")
        check_layer_count(count)
        return count

    def pattern(self, name: str, period: int) -> list[bool]:
        """Which layers have a window: a list, or the number of layers of which the last has none, `period`
        where the field is missing. Raises ValueError for anything else."""
        found, n_layers = self.optional(name, period), self.layer_count()
        if isinstance(found, list) and len(found) == n_layers:
            return list(map(bool, found))
        period = self.count(name, period)
        return [(i + 1) % period != 0 for i in range(n_layers)]

    def kv_heads(self) -> int:
        """`attention.head_count_kv`, as many as heads where it is missing."""
        return self.count("attention.head_count_kv", self.count("attention.head_count"))

    def attention(
        self, head_dim: int, rope: Rope | None, n_kv_heads: int | None = None, **further: object
    ) -> AttentionSpec:
        """The attention of a file that says its heads and biases as most do, and what is `further` in it.

        Without `n_kv_heads` the file must say them. Raises ValueError naming a field that is missing or no
        count.
        """
        return AttentionSpec(
            n_heads=self.count("attention.head_count"),
            n_kv_heads=self.count("attention.head_count_kv") if n_kv_heads is None else n_kv_heads,
            head_dim=head_dim,
            rope=rope,
            qkv_bias=self.has("blk.0.attn_q.bias"),
            output_bias=self.has("blk.0.attn_output.bias"),
            **further,
        )

    def experts(self, renormalize: bool, *, bias: bool = False) -> Experts:
        """The experts of each layer. Raises ValueError naming a field that is missing or no count."""
        return Experts(self.count("expert_count"), self.count("expert_used_count"), renormalize, bias)

    def number(self, name: str, default: float) -> float:
        """A positive number. Raises ValueError naming the field for anything else."""
        value = self.optional(name, default)
        if not is_positive(value):
            raise ValueError(
                f"field '{self.architecture}.{name}' is {value!r}, not a positive number: use another "
                "conversion of this checkpoint"
            )
        return float(value)

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of `count` numbers, under a name that has no architecture before it. Raises ValueError
        naming the field for anything else."""
        values = self._of_file.get(name)
        whole = isinstance(values, list) and len(values) == count
        if not whole or not all(isinstance(value, float) and math.isfinite(value) for value in values):
            raise ValueError(
                f"field {name!r} is not a list of {count} numbers: use another conversion of this checkpoint"
            )
        return values

    def norm_eps(self, kind: str = "layer_norm_rms") -> float:
        """What norms of this kind add to the mean square, or to the variance."""
        return self.number(f"attention.{kind}_epsilon", 0.0)

    def theta(self, default: float = 10000.0) -> float:
        """The rotation's base frequency."""
        return self.number("rope.freq_base", default)

    @property
    def rope_factors(self) -> Sequence[float] | None:
        """Return the divisors of rotary frequencies in `rope_freqs.weight`; None where the file has none."""
        self._read_factors = True
        return self._rope_factors

    def rope(self, width: int, default_theta: float = 10000.0, *, interleaved: bool = False) -> Rope:
        """The rotation that all layers share."""
        theta = self.theta(default_theta)
        return Rope(theta, width, self.scaling(width, theta), interleaved)

    def scaling(self, width: int, theta: float) -> RopeScaling | None:
        """The rotary scaling that fields and factors tell, of a rotation of this width and base; a factor
        without a type is linear, as llama.cpp reads it. Raises ValueError for one of another type."""
        scaling, factors = self._scaling_of_fields(), self.rope_factors
        if factors is None or all(factor == 1.0 for factor in factors):
            return scaling
        if scaling is not None:
            raise ValueError(
                f"both {self.architecture}.rope.scaling.type {scaling.kind!r} and the tensor "
                "rope_freqs.weight are given: use a checkpoint with one of them"
            )
        return fit_llama3(factors, width, theta, self.count("context_length"))

    def _scaling_of_fields(self) -> RopeScaling | None:
        factor = self.optional("rope.scaling.factor")
        kind = self.optional("rope.scaling.type", "none" if factor is None else "linear")
        if self._long_rope_factors is not None and kind in ("none", "longrope"):
            self._read_long_factors = True
            original = self.count("rope.scaling.original_context_length")
            otherwise = longrope_attention_factor(self.count("context_length") / original, original)
            short, long = map(tuple, self._long_rope_factors)
            return RopeScaling(
                "longrope",
                original_context_length=original,
                short_factors=short,
                long_factors=long,
                attention_factor=self.number("rope.scaling.attn_factor", otherwise),
            )
        if kind == "yarn":
            return self._yarn()
        if kind not in ("none", "linear"):
            raise ValueError(
                f"{self.architecture}.rope.scaling.type {kind!r} is not supported: use a checkpoint with "
                "'linear', 'yarn', 'longrope' and its factors, or none"
            )
        return RopeScaling("linear", factor) if kind == "linear" else None

    def _yarn(self) -> RopeScaling:
        self.only("rope.scaling.yarn_ext_factor", 1.0)
        factor = self.number("rope.scaling.factor", 0.0)
        grown = self.optional("rope.scaling.yarn_log_multiplier")
        otherwise = yarn_attention_factor(factor, 1.0 if grown else None, grown)
        return RopeScaling(
            "yarn",
            factor,
            original_context_length=self.count(
                "rope.scaling.original_context_length", self.count("context_length")
            ),
            beta_fast=self.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=self.number("rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=self.number("rope.scaling.yarn_attn_factor", otherwise),
        )

    def has(self, tensor: str) -> bool:
        return tensor in self.shapes

    def model(self, family: str, layers: Sequence[LayerSpec], **further: object) -> ModelConfig:
        """The ModelConfig of layers that go through `layers` again and again, with the fields and tensors
        that every family calls alike, and what is `further` in it.

        Raises ValueError naming a field that is missing, of a wrong value, or asked for by nobody.
        """
        kind = "layer_norm" if layers[0].norm == "layer" else "layer_norm_rms"
        config = ModelConfig(
            family=family,
            dim=self.count("embedding_length"),
            layers=repeated(layers, self.layer_count()),
            vocab_size=self.shapes["token_embd.weight"][0],
            tied_embeddings=not self.has("output.weight"),
            **{
                "norm_eps": self.norm_eps(kind),
                "context_length": self.count("context_length"),
                **further,
            },
        )
        for name in NEUTRAL.keys() - self._read:
            self.only(name, NEUTRAL[name])
        factors = self._rope_factors
        unread = None
        if not self._read_factors and factors is not None and any(factor != 1 for factor in factors):
            unread = "rope_freqs.weight"
        if not self._read_long_factors and self._long_rope_factors is not None:
            unread = "rope_factors_long.weight"
        if unread is not None:
            raise ValueError(
                f"the tensor {unread} changes the rotation, which is not read for "
                f"{self.architecture!r}: use the Hugging Face form of this checkpoint"
            )
        self.refuse_unread()
        return config

    def unread(self) -> dict[str, object]:
        """The fields that may change the computation and that nobody asked for."""
        known = HARMLESS | self._read
        return {name: value for name, value in self.fields.items() if name not in known}

    def refuse_unread(self) -> None:
        for name, value in self.unread().items():
            raise ValueError(
                f"field '{self.architecture}.{name}' (value {value!r}) is unknown and may change the "
                "computation: use a checkpoint without it"
            )
