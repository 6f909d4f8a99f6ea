"""How far a packed decoder is from the float model on text held out from calibration."""

import torch

from exporter.divergence import DecoderLogits, divergence, log_probabilities
from exporter.lowbit_model import LowbitTransformer
from exporter.model import Transformer
from exporter.perplexity import Window
from exporter.quality.calibration import Calibration


class Expected:
    """The float model's log-probabilities, float16, of the second halves of held-out windows."""

    def __init__(self, model: Transformer, calibration: Calibration):
        held_out = calibration.held_out if len(calibration.held_out) else calibration.tokens[:1]
        half = held_out.shape[1] // 2
        self.windows = [Window(tuple(row.tolist()), half) for row in held_out]
        logits = DecoderLogits(model)
        with torch.no_grad():
            self.blocks = [
                [log_probabilities(block).half() for block in logits.blocks(window)]
                for window in self.windows
            ]

    def kl_of(self, model: LowbitTransformer) -> float:
        """Mean KL in nats a position."""
        total = count = 0
        logits = DecoderLogits(model)
        with torch.no_grad():
            for window, expected in zip(self.windows, self.blocks, strict=True):
                for log_p, block in zip(expected, logits.blocks(window), strict=True):
                    kl = divergence(log_p, block).kl
                    total, count = total + float(kl.sum()), count + len(kl)
        return total / count
