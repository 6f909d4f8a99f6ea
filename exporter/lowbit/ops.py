"""The operators `torch.ops.lowbit.*`: where their library is, and what tracing needs of them.

Schemas and CPU implementations are in `kernels/bindings/aten.cpp`; the shapes here are those of
`kernels/lowbit.h`. `C_SHIMS` is what AOTInductor's generated code calls, `kernels/bindings/aoti.cpp`.
"""

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor

LIBRARY_VARIABLE = "LOWBIT_LIBRARY"
LIBRARY = Path(__file__).parent.parent.parent / "cmake-out" / "liblowbit_aten.so"

# Of the C functions' parameters; kernels/bindings/aoti.h has the same number.
C_INTERFACE_VERSION = 1
# Operator -> its C declaration.
C_SHIMS = {
    "linear_a8wx": "AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle* bias, "
    "int64_t out_features, int32_t token_scales",
    "linear_wx": "AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle* bias, "
    "int64_t out_features",
    "linear_fp": "AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle* bias, "
    "int64_t out_features",
    "embedding": "AtenTensorHandle weight, AtenTensorHandle tokens, int64_t width",
    "rms_norm": "AtenTensorHandle x, AtenTensorHandle weight, double eps",
    "silu_mul": "AtenTensorHandle gate_up",
    "gelu_mul": "AtenTensorHandle gate_up",
    "add": "AtenTensorHandle a, AtenTensorHandle b",
    "select_rows": "AtenTensorHandle x, AtenTensorHandle rows",
    "attention": "AtenTensorHandle qkv, AtenTensorHandle cos, AtenTensorHandle sin, "
    "AtenTensorHandle key_cache, AtenTensorHandle value_cache, AtenTensorHandle start_pos, "
    "int64_t heads, int64_t kv_heads, int64_t window, int32_t interleaved",
}


def load() -> None:
    """Make `torch.ops.lowbit` available; further calls do nothing.

    Raises FileNotFoundError with the remedy when the library is not built.
    """
    if hasattr(torch.ops.lowbit, "linear_a8wx"):
        return
    path = Path(os.environ.get(LIBRARY_VARIABLE) or LIBRARY)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the library of the lowbit operators is not there; build it with "
            f"scripts/build_native.sh, or name it with {LIBRARY_VARIABLE}"
        )
    # Global, so that packages compiled by AOTInductor find their operators when loaded here.
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    _register_shapes()


def c_shims() -> dict:
    """`aot_inductor.custom_ops_to_c_shims` of every operator."""
    return {
        getattr(torch.ops.lowbit, name).default: [
            f"AOTITorchError aoti_torch_cpu_{name}({arguments}, AtenTensorHandle* ret0)"
        ]
        for name, arguments in C_SHIMS.items()
    }


def _register_shapes() -> None:
    """The results' shapes, for tracing."""

    def fake(name: str):
        return torch.library.register_fake(f"lowbit::{name}")

    def matrix(like: Tensor, rows, columns) -> Tensor:
        return like.new_empty((rows, columns), dtype=torch.float32)

    @fake("linear_a8wx")
    def _(x, weight, bias, out_features, token_scales):
        return matrix(x, x.shape[0], out_features)

    @fake("linear_wx")
    def _(x, weight, bias, out_features):
        return matrix(x, x.shape[0], out_features)

    @fake("linear_fp")
    def _(x, weight, bias, out_features):
        return matrix(x, x.shape[0], out_features)

    @fake("embedding")
    def _(weight, tokens, width):
        return matrix(weight, tokens.shape[1], width)

    @fake("rms_norm")
    def _(x, weight, eps):
        return torch.empty_like(x)

    @fake("silu_mul")
    def _(gate_up):
        return matrix(gate_up, gate_up.shape[0], gate_up.shape[1] // 2)

    @fake("gelu_mul")
    def _(gate_up):
        return matrix(gate_up, gate_up.shape[0], gate_up.shape[1] // 2)

    @fake("add")
    def _(a, b):
        return torch.empty_like(a)

    @fake("select_rows")
    def _(x, rows):
        return matrix(x, rows.shape[0], x.shape[1])

    @fake("attention")
    def _(qkv, cos, sin, key_cache, value_cache, start_pos, heads, kv_heads, window, interleaved):
        return matrix(qkv, qkv.shape[0], qkv.shape[1] // (heads + 2 * kv_heads) * heads)
