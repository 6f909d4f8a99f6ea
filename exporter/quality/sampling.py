"""Many texts decoded side by side, a token each a step."""

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.model import Transformer
from exporter.quality.layerwise import Rope, last_hidden, matrices, rms_norm


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
        H, K, d = config.n_heads, config.n_kv_heads, config.head_dim
        q, k, v = qkv_BN.view(len(qkv_BN), H + 2 * K, d).split((H, K, K), dim=1)
        self.keys[i][:, :, t], self.values[i][:, :, t] = self.rope.turn(k, t), v
        start = 0 if config.sliding_window is None else max(0, t + 1 - config.sliding_window)
        y = F.scaled_dot_product_attention(
            self.rope.turn(q, t)[:, :, None],
            self.keys[i][:, :, start : t + 1],
            self.values[i][:, :, start : t + 1],
            enable_gqa=H != K,
        )
        return y[:, :, 0].reshape(len(qkv_BN), H * d)
