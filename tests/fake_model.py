"""A model with the interface of `exporter.runners.native`, over the eager float32 decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.tokenizer.tokenizer import read_tokenizer


class FakeTokenizer:
    def __init__(self, path: Path, add_bos: bool):
        self._tokenizer = read_tokenizer(path)
        self.bos_id, self.eos_id = self._tokenizer.bos_id, self._tokenizer.eos_id
        self.n_pieces = self._tokenizer.n_pieces
        self.add_bos = add_bos

    def encode(self, text: str, add_bos: bool = False, parse_special: bool = True) -> list[int]:
        return [self.bos_id] * add_bos + self._tokenizer.encode(text)

    def decode(self, ids) -> str:
        return self._tokenizer.decode(list(ids))


class FakeModel:
    """`forwards` counts the tokens that were run."""

    def __init__(self, folder: Path, context: int = 128, add_bos: bool = False):
        checkpoint = open_checkpoint(str(folder))
        self.decoder = load_model(checkpoint, torch.float32, context)
        self.session = self.decoder.new_session()
        self.tokenizer = FakeTokenizer(checkpoint.tokenizer_path, add_bos)
        self.metadata = {
            "model_name": "fake",
            "context_length": str(context),
            "vocab_size": str(checkpoint.config.vocab_size),
            "max_chunk": "32",
            "max_rows": "8",
            "stop_ids": f"[{self.tokenizer.eos_id}]",
        }
        self.forwards, self.context_length = 0, context

    def forward(self, tokens, start_pos: int, rows) -> np.ndarray:
        assert 1 <= len(tokens) <= int(self.metadata["max_chunk"])
        assert 1 <= len(rows) <= int(self.metadata["max_rows"])
        assert start_pos + len(tokens) <= int(self.metadata["context_length"])
        self.forwards += len(tokens)
        with torch.no_grad():
            return self.session.read(
                torch.tensor([list(tokens)]), start_pos, torch.tensor(list(rows))
            ).numpy()

    def score(self, tokens, first: int) -> np.ndarray:
        with torch.no_grad():
            logits = self.decoder.new_session().read(
                torch.tensor([list(tokens[:-1])]), 0, torch.arange(first - 1, len(tokens) - 1)
            )
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens[first:])[:, None])
        return chosen[:, 0].numpy()
