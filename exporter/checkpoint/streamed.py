"""Read a decoder's layers from the checkpoint when they are asked for.

Held are the embedding, the last norm and the output layer. A layer belongs to whoever asked for it and goes
with it, so that packing and calibrating hold one layer of float weights at a time.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.model.decoder import Block, Transformer, assigned
from exporter.model.matrices import layer_shapes, parameter_shapes

DTYPE = torch.float32  # what the lowbit kernels compute in
Change = Callable[[Block, int], None]


class StreamedBlocks(nn.Module):
    """`Transformer.layers` of `dtype`: each access reads the block anew and makes the changes to it."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None = DTYPE):
        super().__init__()
        self._checkpoint, self._dtype, self._changes = checkpoint, dtype, []

    def then(self, change: Change) -> None:
        """Make `change(block, i)`, in place, to every block that is read from now on."""
        self._changes.append(change)

    def __len__(self) -> int:
        return self._checkpoint.config.n_layers

    def __getitem__(self, i: int) -> Block:
        """Read block `i` of 0..len - 1. Raises ValueError or OSError when it cannot be read any more."""
        if not 0 <= i < len(self):
            raise IndexError(f"layer {i} of {len(self)}")
        prefix = f"layers.{i}."
        config = self._checkpoint.config
        names = [prefix + name for name, _ in layer_shapes(config.layers[i], config.dim)]
        with torch.device("meta"):
            block = Block(config.layers[i], config.dim, config.norm_eps)
        state = self._checkpoint.state_dict(self._dtype, names)
        block.load_state_dict({n.removeprefix(prefix): t for n, t in state.items()}, assign=True)
        block.eval().requires_grad_(False)
        for change in self._changes:
            change(block, i)
        return block

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))


def stream_model(checkpoint: Checkpoint, max_seq_length: int, as_stored: bool = False) -> Transformer:
    """Make the checkpoint's decoder in float32, its layers `StreamedBlocks`.

    Where it is `as_stored`, to be packed and not to be run, matrices of 16 bits are views of the files and
    take no memory of their own.

    Raises ValueError for a length that the model does not have.
    """
    config = checkpoint.config
    with torch.device("meta"):
        model = Transformer(config, max_seq_length)
    dtype = None if as_stored else DTYPE
    model.layers = StreamedBlocks(checkpoint, dtype)
    state = {}
    for name in parameter_shapes(config):
        if not name.startswith("layers."):  # one at a time: each goes by itself when it is replaced
            state |= checkpoint.state_dict(dtype, [name])
    return assigned(model, state)
