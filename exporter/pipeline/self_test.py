"""Make an artifact's self-test: what its runner must answer on any machine, compared with `==`.

Token ids of texts and conversations come from the reference tokenizer and the model's own template, the
checksums of logits from the decoder in PyTorch: operators of ours give the same bits in both.
"""

import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.chat.conversations import expected_conversations
from exporter.chat.texts import PROMPTS
from exporter.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from exporter.lowbit.decoder import LowbitTransformer

PROMPT_TOKENS = 28  # read in one forward
NEXT_TOKENS = 4  # read one by one after them, as in decoding


def make_self_test(tokenizer: Tokenizer, chat: dict, model: "LowbitTransformer | None") -> dict:
    """Return the self-test of an artifact as JSON has it (docs/artifact.md).

    Args:
        tokenizer: the checkpoint's, with its reference library.
        chat: the chat template as the artifact holds it.
        model: the decoder on our operators; None for stock ones, whose bits differ between machines.

    Raises ValueError where the model does not run with the cache type that it is exported with.
    """
    return {
        "texts": [{"text": text, "ids": tokenizer.encode(text)} for text in PROMPTS],
        "conversations": [
            {
                "messages": json.dumps(expected.messages), "variables": json.dumps(expected.variables),
                "date": expected.date, "ids": expected.ids,
            }
            for expected in expected_conversations(tokenizer, chat)
        ],
        "logits": [] if model is None else [
            _answer(model, ids) for ids in _prompts(tokenizer, model.config.vocab_size, model.max_seq_length)
        ],
        "weight_bytes": None if model is None else _weight_bytes(model),
    }  # fmt: skip


def _prompts(tokenizer: Tokenizer, vocab_size: int, context: int) -> list[list[int]]:
    """The first tokens of some texts, as many as the context holds; at least one."""
    length = min(PROMPT_TOKENS + NEXT_TOKENS, context)
    known = [[id for id in tokenizer.encode(text) if id < vocab_size] for text in PROMPTS[::2]]
    return [ids[:length] for ids in known if ids] or [[0]]


def _answer(model: "LowbitTransformer", ids: Sequence[int]) -> dict:
    """Return the CRC-32 of the float32 logits of every position."""
    import torch

    from exporter.lowbit import ops

    session, prompt = model.new_session(), max(1, len(ids) - NEXT_TOKENS)
    checksum = 0
    starts = [0, *range(prompt, len(ids))]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        tokens = torch.tensor([ids[start:end]])
        with ops.errors_told(), torch.no_grad():
            logits = session.read(tokens, start, torch.arange(end - start))
        checksum = zlib.crc32(logits.contiguous().numpy().tobytes(), checksum)
    return {"prompt": list(ids[:prompt]), "next": list(ids[prompt:]), "crc32": checksum}


def _weight_bytes(model: "LowbitTransformer") -> int:
    """Return the bytes of weights that a decoded token reads: all but an embedding's table of its own, and of
    experts those that a token chooses."""
    output = {buffer.data_ptr() for buffer in model.output.buffers()}
    distinct = {buffer.data_ptr(): buffer for buffer in model.buffers()}
    if model.table.data_ptr() not in output:
        distinct.pop(model.table.data_ptr())
    shares = {}
    for block in model.layers:
        experts = block.layer.feed_forward.experts
        for linear in block.children():
            if experts is not None and linear.experts is not None:
                shares |= {buffer.data_ptr(): experts.chosen / experts.count for buffer in linear.buffers()}
    return round(sum(buffer.nbytes * shares.get(at, 1) for at, buffer in distinct.items()))
