"""Run torchao's packed low-bit operators on our kernels where torchao has no library of them.

torchao's wheels for Linux hold no kernels for its opaque weights, so that
`Int8DynamicActivationIntxWeightConfig(intx_packing_format="opaque_torchao_auto")` and its embedding
counterparts fail with "TorchAO kernel library is not loaded". After `load_aliases()` they work, and
`rewrite` turns programs that hold them into programs on `lowbit::*`.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from exporter.lowbit import ops

LIBRARY_NAME = "liblowbit_torchao.so"  # beside that of the lowbit operators
BIT_WIDTHS = range(1, 9)

# Operators for each bit width.
PACK_WEIGHT = "_pack_8bit_act_{}bit_weight"
LINEAR = "_linear_8bit_act_{}bit_weight"
PACK_EMBEDDING = "_pack_embedding_{}bit"
EMBEDDING = "_embedding_{}bit"
SHARED_EMBEDDING = "_shared_embedding_{}bit"
ALL = (PACK_WEIGHT, LINEAR, PACK_EMBEDDING, EMBEDDING, SHARED_EMBEDDING)


def load_aliases() -> bool:
    """Make torchao's operators available; returns False when a library of torchao's has them already.

    Then that library stays in use: names cannot be registered twice. Further calls do nothing.
    Raises FileNotFoundError with the remedy when our library is not built.
    """
    import torchao  # noqa: F401  loads torchao's own libraries, if there are any

    if is_loaded():
        return True
    if any(_is_registered(name.format(bits)) for name in ALL for bits in BIT_WIDTHS):
        return False
    ops.load()
    path = Path(os.environ.get(ops.LIBRARY_VARIABLE) or ops.LIBRARY).with_name(LIBRARY_NAME)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the library of torchao's operators on our kernels is not there; build it "
            "with scripts/build_native.sh"
        )
    torch.ops.load_library(path)
    _register_shapes()
    return True


def is_loaded() -> bool:
    """Tell whether torchao's operators are those of our library."""
    return hasattr(torch.ops.lowbit, "split_torchao")


def _is_registered(name: str) -> bool:
    return hasattr(torch.ops.torchao, name)


def _register_shapes() -> None:
    """Register the results' shapes, for tracing, where torchao has not registered its own."""

    def linear(activations: Tensor, packed_weights, group_size, n, k) -> Tensor:
        return activations.new_empty((activations.shape[0], n))

    def embedding(
        packed_weight_qvals, num_embeddings, embedding_dim, weight_scales, weight_zeros, indices
    ) -> Tensor:
        shape = (indices.shape[0], embedding_dim)
        return indices.new_empty(shape, dtype=torch.float32)

    def shared_embedding(packed_weights, group_size, n, k, indices) -> Tensor:
        return indices.new_empty((indices.shape[0], k), dtype=torch.float32)

    shapes = {LINEAR: linear, EMBEDDING: embedding, SHARED_EMBEDDING: shared_embedding}
    for pattern, shape in shapes.items():
        for bits in BIT_WIDTHS:
            name = f"torchao::{pattern.format(bits)}"
            if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
                torch.library.register_fake(name, shape)
