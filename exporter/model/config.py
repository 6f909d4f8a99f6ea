"""The decoder's configuration: one frozen value that every later stage reads.

Only the standard library is used here. `families.hf`, `families.meta` and `families.gguf` make a
`ModelConfig` from what each checkpoint format says of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAMILIES = ("llama", "mistral")
MAX_LAYERS = 1000  # a damaged count would otherwise list parameters without end


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the pretraining's.

    `linear` divides every frequency by `factor` and reads nothing else. `llama3` (Llama 3.1)
    divides the low frequencies by `factor`, keeps the high ones, and blends those in between.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise ValueError(
                f"rope scaling {self.kind!r} is not supported: use a checkpoint with "
                "'linear', 'llama3' or no rope scaling"
            )
        for field in ("factor", "low_freq_factor", "high_freq_factor"):
            _require_positive(f"rope scaling's {field}", getattr(self, field), (int, float))
        _require_positive(
            "rope scaling's original_context_length", self.original_context_length, int
        )
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope scaling's high_freq_factor {self.high_freq_factor} must be larger than "
                f"its low_freq_factor {self.low_freq_factor}: correct the checkpoint's config"
            )


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Llama family.

    `head_dim` is independent of `dim / n_heads`. `sliding_window` counts the positions a token
    sees, itself included; None means all. `context_length` is the longest the model was made for.
    """

    family: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    context_length: int
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    sliding_window: int | None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(
                f"model family {self.family!r} is not supported: use one of {', '.join(FAMILIES)}"
            )
        for field in (
            "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size",
            "context_length",
        ):  # fmt: skip
            _require_positive(field, getattr(self, field), int)
        if self.n_layers > MAX_LAYERS:
            raise ValueError(
                f"n_layers is {self.n_layers}, more than {MAX_LAYERS}: "
                "correct the checkpoint's config"
            )
        for field in ("norm_eps", "rope_theta"):
            _require_positive(field, getattr(self, field), (int, float))
        for field in ("tied_embeddings", "qkv_bias", "output_bias", "mlp_bias"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}, not true or false: "
                    "correct the checkpoint's config"
                )
        if self.sliding_window is not None:
            _require_positive("sliding_window", self.sliding_window, int)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key-value heads "
                "evenly: correct the checkpoint's config"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd, but rotary embedding turns pairs: "
                "correct the checkpoint's config"
            )

    def check_length(self, max_seq_length: int) -> None:
        """Raise ValueError unless `max_seq_length` is in 1..context_length."""
        if not 1 <= max_seq_length <= self.context_length:
            raise ValueError(
                f"--max-seq-length {max_seq_length} is outside 1..{self.context_length}, "
                "the context this model was trained for; choose a value in that range"
            )


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model under its canonical name, in the model's order."""
    dim, hidden = config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    # module inside a layer: (output features, input features, has a bias)
    linears = {
        "attention.wq": (q_dim, dim, config.qkv_bias),
        "attention.wk": (kv_dim, dim, config.qkv_bias),
        "attention.wv": (kv_dim, dim, config.qkv_bias),
        "attention.wo": (dim, q_dim, config.output_bias),
        "feed_forward.w1": (hidden, dim, config.mlp_bias),
        "feed_forward.w2": (dim, hidden, config.mlp_bias),
        "feed_forward.w3": (hidden, dim, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        prefix = f"layers.{layer}."
        shapes[f"{prefix}attention_norm.weight"] = (dim,)
        shapes[f"{prefix}ffn_norm.weight"] = (dim,)
        for module, (rows, columns, has_bias) in linears.items():
            shapes[f"{prefix}{module}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{prefix}{module}.bias"] = (rows,)
    shapes["norm.weight"] = (dim,)
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, dim)
    return shapes


def _require_positive(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:
        expected = "a positive whole number" if kind is int else "a positive number"
        raise ValueError(f"{name} is {value!r}, not {expected}: correct the checkpoint's config")
