"""How a Hugging Face checkpoint holds ternary matrices (BitNet, arXiv 2402.17764), told by its
quantization_config.

Source: transformers' BitNetQuantConfig and integrations/bitnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TERNARY = "bitnet"  # its quant_method
KNOWN = frozenset(
    "quant_method linear_class quantization_mode modules_to_not_convert use_rms_norm rms_norm_eps".split()
)


@dataclass(frozen=True)
class Ternary:
    """A matrix is -1, 0 and 1 times a scale of its own. `packed`: four rows a byte in `weight`, and the
    scale, or one by it where `inverse`, in `weight_scale`; else `weight` holds floats, which are rounded to
    their mean magnitude's levels."""

    packed: bool
    inverse: bool = False


def read_ternary(quantization: Mapping[str, object]) -> Ternary:
    """Read a quantization_config of "bitnet". Raises ValueError naming what is not supported."""
    for name, value in quantization.items():
        if value is not None and name not in KNOWN:
            raise ValueError(
                f"quantization_config has {name!r} (value {value!r}), which is unknown: use a checkpoint "
                "without it, or delete it if it changes nothing"
            )
    if quantization.get("use_rms_norm"):
        raise ValueError("quantization_config's use_rms_norm is not supported: use a checkpoint without it")
    if quantization.get("modules_to_not_convert") not in (None, [], ["lm_head"]):
        raise ValueError(
            f"quantization_config leaves {quantization['modules_to_not_convert']!r} unconverted, and only "
            "['lm_head'] is supported: use a checkpoint whose layers are all ternary"
        )
    kind = quantization.get("linear_class") or "bitlinear", quantization.get("quantization_mode") or "offline"
    known = {
        ("bitlinear", "offline"): Ternary(packed=True, inverse=True),
        ("autobitlinear", "offline"): Ternary(packed=True),
        ("autobitlinear", "online"): Ternary(packed=False),
    }
    if kind not in known:
        raise ValueError(
            f"quantization_config has linear_class {kind[0]!r} and quantization_mode {kind[1]!r}, which are "
            "not supported: use a checkpoint with 'autobitlinear', or 'bitlinear' and 'offline'"
        )
    return known[kind]
