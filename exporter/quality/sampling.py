"""Many texts decoded side by side, a token each a step."""

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.model.decoder import Transformer
from exporter.quality.layerwise import (
    Rope,
    block_output,
    float_weights,
    last_hidden,
    matrices,
    over_parts,
    rms_norm,
)


class BatchDecoder:
    """The float decoder for B sequences that all stand at the same position."""

    def __init__(self, model: Transformer, batch: int, length: int):
        config = self.config = model.config
        self.model, self.position = model, 0
        self.blocks = list(model.layers)  # read once, not at each step
        shape = (batch, config.n_kv_heads, length, config.head_dim)
        self.keys = [torch.empty(shape) for _ in self.blocks]
        self.values = [torch.empty(shape) for _ in self.blocks]
        self.rope = Rope(config, length)

    def read(self, tokens_BT: Tensor) -> None:
        """Be where as many steps with these tokens lead to: the first ones."""
        model, config, T = self.model, self.config, tokens_BT.shape[1]
        if not T:
            return
        rope = Rope(config, T)
        x = F.embedding(tokens_BT, model.tok_embeddings.weight)
        for i, block in enumerate(self.blocks):
            known = float_weights(block)

            def work(windows: slice, i=i, block=block, known=known, x=x) -> Tensor:
                def linear(name: str, inputs: Tensor) -> Tensor:
                    y = F.linear(inputs, *known[name])
                    if name == "wqkv":
                        _, k, v = self._split(y)
                        self.keys[i][windows, :, :T] = rope.turn(k.transpose(1, 2))
                        self.values[i][windows, :, :T] = v.transpose(1, 2)
                    return y

                return block_output(block, x[windows], config, rope, linear)

            x = torch.cat(list(over_parts(work, len(x))))
        self.position = T

    def step(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] after `tokens_B` at the next position."""
        config, model = self.config, self.model
        x = F.embedding(tokens_B, model.tok_embeddings.weight)
        for i, block in enumerate(self.blocks):
            a = rms_norm(x, block.attention_norm.weight, config.norm_eps)
            qkv = torch.cat([layer(a) for layer in matrices(block)["wqkv"]], dim=-1)
            x = x + block.attention.wo(self._attention(i, qkv))
            x = x + block.feed_forward(rms_norm(x, block.ffn_norm.weight, config.norm_eps))
        self.position += 1
        return F.linear(last_hidden(model, x), model.output.weight)

    def _attention(self, i: int, qkv_BN: Tensor) -> Tensor:
        config, t = self.config, self.position
        q, k, v = self._split(qkv_BN)
        self.keys[i][:, :, t], self.values[i][:, :, t] = self.rope.turn(k, t), v
        start = 0 if config.sliding_window is None else max(0, t + 1 - config.sliding_window)
        y = F.scaled_dot_product_attention(
            self.rope.turn(q, t)[:, :, None],
            self.keys[i][:, :, start : t + 1],
            self.values[i][:, :, start : t + 1],
            enable_gqa=config.n_heads != config.n_kv_heads,
        )
        return y[:, :, 0].reshape(len(qkv_BN), config.n_heads * config.head_dim)

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values [..., heads, d] of the joined ones [..., N]."""
        H, K, d = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        return qkv.unflatten(-1, (H + 2 * K, d)).split((H, K, K), dim=-2)
