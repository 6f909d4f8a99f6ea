"""Measure how far a packed decoder is from the float model on text held out from calibration."""

import torch
from torch import Tensor

from exporter.lowbit.decoder import LowbitTransformer
from exporter.model.decoder import Transformer
from exporter.quality.layerwise import run_block
from exporter.quality.windows import RotaryTables, embedded, float_weights, last_hidden
from exporter.scoring.divergence import DecoderLogits, divergence, log_probabilities
from exporter.scoring.perplexity import Window


class Expected:
    """The float model's log-probabilities, float16, of the second halves of windows int64 [H, T]."""

    def __init__(self, model: Transformer, held_out: Tensor):
        half = held_out.shape[1] // 2
        self.windows = [Window(tuple(row.tolist()), half) for row in held_out]
        config = model.config
        positions = RotaryTables(config, held_out.shape[1])
        x = embedded(model, held_out)
        for block in model.layers:
            x = run_block(block, x, float_weights(block), positions)
        # The logits of a position are of the token after it.
        hidden = last_hidden(model, x[:, half - 1 : -1])
        self.log_p = [log_probabilities(model.logits(h)).half() for h in hidden]

    def kl_of(self, model: LowbitTransformer) -> float:
        """Measure the mean KL of `model` from the float model, in nats a position."""
        total = count = 0
        logits = DecoderLogits(model)
        with torch.no_grad():
            for window, log_p in zip(self.windows, self.log_p, strict=True):
                kl = divergence(log_p, logits.logits(window)).kl
                total, count = total + float(kl.sum()), count + len(kl)
        return total / count
