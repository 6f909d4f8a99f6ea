"""A Hugging Face config.json, each field read once.

A field that no family's reader asked for is refused by name, unless it is known to change nothing: it may
change the computation. Both spellings are read, of transformers 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from exporter.families.sources.hf_rope import ORIGINAL, read_rope, required
from exporter.formats.quantized_names import QUANTIZED_REMEDY
from exporter.model.config import (
    Experts,
    LayerSpec,
    ModelConfig,
    Rope,
    check_layer_count,
    is_positive,
    repeated,
)
from exporter.model.generation_settings import GENERATION_KEYS

# Training, bookkeeping, token ids. `pretraining_tp` splits matrix products into slices and sums the
# same terms. Generation settings of older versions are generation_settings.py's.
HARMLESS = GENERATION_KEYS | frozenset(
    """_attn_implementation _attn_implementation_autoset _flash_attn_2_enabled _name_or_path
    architectures attention_dropout chunk_size_feed_forward cross_attention_hidden_size dtype finetuning_task
    id2label initializer_range is_decoder is_llama_config label2id max_sequence_length
    model_type prefix pretraining_tp problem_type return_dict sep_token_id task_specific_params
    tf_legacy_loss tokenizer_class torch_dtype torchscript transformers.js_config unsloth_fixed
    unsloth_version use_bfloat16""".split()
)
# Fields of every family whose other values change the computation.
NEUTRAL: dict[str, object] = {
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
}
FULL, SLIDING = "full_attention", "sliding_attention"  # of `layer_types`


class HFConfig:
    """The content of a config.json. Readers ask for fields; `model` refuses what nobody asked for.

    `stored` returns the numbers in a small tensor of the checkpoint, for what other formats have in the
    config. How weights are quantized is not its affair: fields that say so are refused, and whoever reads
    such weights leaves them out.
    """

    def __init__(
        self, fields: Mapping[str, object], stored: Callable[[str], Sequence[float]] | None = None
    ):
        self.fields, self._stored = fields, stored
        self._read: set[str] = set()
        quantized = fields.get("quantization_config") or fields.get("quantization")  # the latter: MLX
        if quantized is not None:
            method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
            raise ValueError(f"quantization_config {method or quantized!r}: {QUANTIZED_REMEDY}")

    def required(self, name: str) -> object:
        """The field's value. Raises ValueError when it is missing or null."""
        self._read.add(name)
        return required(self.fields, name)

    def optional(self, name: str, default: object = None) -> object:
        """The field's value, `default` where it is missing or null."""
        self._read.add(name)
        return _optional(self.fields, name, default)

    def nullable(self, name: str, default: object) -> object:
        """The field's value, null among them, `default` where it is missing."""
        self._read.add(name)
        return self.fields.get(name, default)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1; without a default the field must be there.

        Raises ValueError naming the field for anything else.
        """
        value = self.required(name) if default is None else self.optional(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"field {name!r} is {value!r}, not a positive whole number: correct the config")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number. Raises ValueError naming the field for anything else."""
        value = self.optional(name, default)
        if not is_positive(value):
            raise ValueError(f"field {name!r} is {value!r}, not a positive number: correct the config")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false. Raises ValueError naming the field for anything else."""
        value = self.optional(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"field {name!r} is {value!r}, not true or false: correct the config")
        return value

    def window(self, name: str, default: int | None) -> int | None:
        """A count of positions, or null for all; `default` where the field is missing."""
        return None if self.nullable(name, default) is None else self.count(name, default)

    def stored_number(self, name: str) -> float:
        """The only element of the tensor `name`. Raises ValueError for one that is missing, or holds
        something else."""
        numbers = [] if self._stored is None else self._stored(name)
        if len(numbers) != 1 or not math.isfinite(numbers[0]):
            raise ValueError(f"tensor {name} does not hold one number: download the whole checkpoint")
        return numbers[0]

    def ignore(self, name: str) -> None:
        """A field that changes nothing of the computation."""
        self._read.add(name)

    def only(self, name: str, value: object) -> None:
        """Raise ValueError when the field has another value than `value`."""
        self._read.add(name)
        found = self.fields.get(name)
        if found is not None and found != value:
            raise ValueError(
                f"field {name!r} is {found!r}, but only {value!r} is supported: "
                "use a checkpoint with that value"
            )

    def experts(
        self, count: int, default_chosen: int, renormalize: bool, *, bias: bool = False
    ) -> Experts:
        """The experts of each layer, of which a token has `num_experts_per_tok`; how their router is trained
        changes nothing. Raises ValueError naming a field that is no count."""
        for name in ("output_router_logits", "router_aux_loss_coef"):
            self.ignore(name)
        return Experts(count, self.count("num_experts_per_tok", default_chosen), renormalize, bias)

    def head_dim(self) -> int:
        """`head_dim`, or the model's width divided among the heads."""
        if self.optional("head_dim") is not None:
            return self.count("head_dim")
        return _whole_division(self.count("hidden_size"), self.count("num_attention_heads"))

    def kv_heads(self, default: int) -> int:
        """`num_key_value_heads`: `default` where it is missing, as many as heads where it is null."""
        if self.nullable("num_key_value_heads", default) is None:
            return self.count("num_attention_heads")
        return self.count("num_key_value_heads", default)

    def rope(
        self, width: int, default_theta: float = 10000.0, *, default_part: float | None = None,
        interleaved: bool = False, beside: Sequence[str] = (),
    ) -> Rope:  # fmt: skip
        """The rotation that all layers share: of a whole head, or with `default_part` of the part of it that
        `partial_rotary_factor` says. `beside` names parameters that are the family's own."""
        rope = {name: value for name, value in self._rope_parameters().items() if name not in beside}
        if default_part is not None:
            part = self.number("partial_rotary_factor", default_part)
            part = _optional(rope, "partial_rotary_factor", part)
            if not is_positive(part) or part > 1:
                raise ValueError(
                    f"partial_rotary_factor is {part!r}, not a part of a head: correct the config"
                )
            width = int(width * part)
            rope = {key: value for key, value in rope.items() if key != "partial_rotary_factor"}
        found = self._rope(rope, width, self.optional("rope_theta", default_theta))
        return replace(found, interleaved=interleaved)

    def rope_parameter(self, name: str) -> object:
        """A rotation's parameter that is the family's own; None where it is missing."""
        return self._rope_parameters().get(name)

    def ropes_by_kind(
        self, width: int, thetas: Mapping[str, tuple[str, float]]
    ) -> dict[str, Rope]:
        """A rotation for each kind of layer. `thetas` has for each kind the older field of its base
        frequency, and that field's default; the older `rope_scaling` is that of FULL."""
        rope = self._rope_parameters()
        nested = {kind for kind in thetas if isinstance(rope.get(kind), Mapping)}
        found = {}
        for kind, (older, default) in thetas.items():
            own = rope[kind] if kind in nested else {} if nested or kind != FULL else rope
            found[kind] = self._rope(own, width, self.optional(older, default))
        if unknown := nested and set(rope) - nested:
            raise ValueError(
                f"rope parameters name {', '.join(sorted(unknown))}, which are no layers of this model: "
                "correct the config"
            )
        return found

    def layer_count(self) -> int:
        """`num_hidden_layers`. Raises ValueError for a count that is none, or too large."""
        count = self.count("num_hidden_layers")
        check_layer_count(count)
        return count

    def layer_kinds(self, default: Sequence[str]) -> Sequence[str]:
        """`layer_types`, FULL or SLIDING for each layer; `default` where the config has none."""
        found = self.optional("layer_types")
        if found is None:
            return default
        whole = isinstance(found, list) and len(found) == len(default)
        if not whole or not all(kind in (FULL, SLIDING) for kind in found):
            raise ValueError(
                f"layer_types is {found!r}, not {len(default)} times {FULL!r} or {SLIDING!r}: correct the "
                "config"
            )
        return found

    def windowed_from(self, layer: LayerSpec, default_first: int, default_window: int) -> list[LayerSpec]:
        """`layer` as often as the model has layers, with a window where the config says so: as Qwen says it,
        `use_sliding_window` for the layers from `max_window_layers` on."""
        window = self.window("sliding_window", default_window)
        if not self.boolean("use_sliding_window"):
            window = None  # as transformers does, whatever `layer_types` says
        first = self.optional("max_window_layers", default_first)
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise ValueError(
                f"field 'max_window_layers' is {first!r}, not a whole number: correct the config"
            )
        sliding = [window is not None and i >= first for i in range(self.layer_count())]
        kinds = self.layer_kinds([SLIDING if slides else FULL for slides in sliding])
        return [layer.windowed(window) if kind == SLIDING else layer for kind in kinds]

    def model(
        self,
        family: str,
        layers: Sequence[LayerSpec],
        *,
        default_context: int,
        default_tied: bool = False,
        eps: tuple[str, float] = ("rms_norm_eps", 1e-6),
        **further: object,
    ) -> ModelConfig:
        """The ModelConfig of layers that go through `layers` again and again, with the fields that every
        family calls alike, and what is `further` in it; `eps` is the field of the norms' epsilon and its
        default.

        Raises ValueError naming a field that is missing, of a wrong value, or asked for by nobody.
        """
        config = ModelConfig(
            family=family,
            dim=self.count("hidden_size"),
            layers=repeated(layers, self.layer_count()),
            vocab_size=self.count("vocab_size"),
            tied_embeddings=self.boolean("tie_word_embeddings", default_tied),
            **{
                "norm_eps": self.number(*eps),
                "context_length": self._context(layers, default_context),
                **further,
            },
        )
        for name in NEUTRAL.keys() - self._read:
            self.only(name, NEUTRAL[name])
        self.refuse_unread()
        return config

    def unread(self) -> dict[str, object]:
        """The fields that may change the computation and that nobody asked for."""
        known = HARMLESS | self._read
        return {name: value for name, value in self.fields.items() if value is not None and name not in known}

    def refuse_unread(self) -> None:
        for name, value in self.unread().items():
            raise ValueError(
                f"field {name!r} (value {value!r}) is unknown and may change the computation: "
                "use a checkpoint without it, or delete it if it does not"
            )

    def _context(self, layers: Sequence[LayerSpec], default: int) -> int:
        """`max_position_embeddings`; as many times the original context as YaRN says where that is more: who
        adds YaRN to a config need not change it."""
        context = self.count("max_position_embeddings", default)
        ropes = (layer.attention.rope for layer in layers)
        scalings = [rope.scaling for rope in ropes if rope is not None and rope.scaling is not None]
        stretched = [int(s.factor * s.original_context_length) for s in scalings if s.kind == "yarn"]
        return max([context, *stretched])

    def _rope(self, rope: Mapping[str, object], width: int, default_theta: object) -> Rope:
        longest, original = map(self.optional, ("max_position_embeddings", ORIGINAL))
        return read_rope(rope, width, default_theta, longest, original)

    def _rope_parameters(self) -> Mapping[str, object]:
        older, newer = self.optional("rope_scaling"), self.optional("rope_parameters")
        if older is not None and newer is not None and older != newer:
            raise ValueError("rope_scaling and rope_parameters differ: delete the wrong one")
        rope = older or newer or {}
        if not isinstance(rope, Mapping):
            raise ValueError(f"rope parameters are {rope!r}, not an object: correct the config")
        return rope


def _optional(config: Mapping[str, object], name: str, default: object) -> object:
    value = config.get(name)
    return default if value is None else value


def _whole_division(dim: int, heads: int) -> int:
    if dim % heads:
        raise ValueError(
            f"hidden_size {dim!r} does not divide evenly among {heads!r} num_attention_heads: "
            "correct the config or give head_dim"
        )
    return dim // heads
