"""A tiny checkpoint packed by a recipe, what it answers, and what `verify` says of its artifact."""

import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.streamed import stream_model
from exporter.cli import main as cli
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.model.decoder import Transformer
from exporter.quality.calibrated import apply_method, transform
from exporter.quality.checkpointing import Work
from exporter.recipe.recipe import Recipe

CONTEXT = 96
EXPONENT_AT = 28  # of the packed header


def loaded(folder) -> Transformer:
    return stream_model(open_checkpoint(str(folder)), CONTEXT)


def quantized(folder, wanted: Recipe, tokens: Tensor, work: Work, report=lambda line: None):
    model = loaded(folder)
    transform(model, wanted.linear, report)
    found = apply_method(model, wanted.linear, wanted.embedding, tokens, work, report)
    options = PackOptions(wanted, torch.float32, found)
    return LowbitTransformer(model, options, "float16", lambda line: None)


def log_probabilities(model, windows: Tensor) -> Tensor:
    rows = torch.arange(windows.shape[1])
    with torch.no_grad():
        logits = [model.new_session().read(w[None], 0, rows) for w in windows]
    return torch.log_softmax(torch.cat(logits), -1)


def verified(capsys, artifact, folder, *arguments: object) -> tuple[int, str, str]:
    """Exit status, all that was printed, and its last line."""
    capsys.readouterr()
    words = ["verify", artifact, "--checkpoint", folder, *arguments]
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, (captured.out or captured.err).splitlines()[-1]
