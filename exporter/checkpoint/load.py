"""Read the whole decoder of a checkpoint at once."""

import torch

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.model.decoder import Transformer, assigned


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, max_seq_length: int
) -> Transformer:
    """Load the checkpoint's decoder in `dtype`: built on `meta`, then assigned strictly, so that no second
    copy of the weights is made.

    Raises ValueError naming the tensors that are missing, extra or misshapen.
    """
    with torch.device("meta"):
        model = Transformer(checkpoint.config, max_seq_length)
    return assigned(model, checkpoint.state_dict(dtype))
