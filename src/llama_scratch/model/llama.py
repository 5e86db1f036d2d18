r"""The whole model: a decoder-only transformer that predicts the next token.

    x₀ = E[tokens],    x_l = Block_l(x_{l−1}),    logits = W_head RMSNorm(x_L)

With `tie_word_embeddings` W_head *is* E: one tensor under two names. Attributes carry Hugging
Face's names, so that `load_state_dict(strict=True)` of a transformers model checks all parameters.

Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.2.
"""

import torch
from torch import nn

from llama_scratch.model.attention import causal_mask
from llama_scratch.model.block import Block
from llama_scratch.model.config import Hidden, LlamaConfig, Logits, Mask, Padding, Positions, Tokens
from llama_scratch.model.kv_cache import KVCache
from llama_scratch.model.rms_norm import RMSNorm
from llama_scratch.model.rotary import angles


class LlamaModel(nn.Module):
    """Embedding, blocks and final norm. Raises ValueError if the cache has no room."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        self.config = config
        V, D = config.vocab_size, config.hidden_size
        self.embed_tokens = nn.Embedding(V, D, config.pad_token_id)
        self.layers = nn.ModuleList(Block(config, sdpa) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(D, config.rms_norm_eps)

    def forward(
        self, tokens: Tokens, positions: Positions, mask: Mask, cache: KVCache | None = None
    ) -> Hidden:
        x = self.embed_tokens(tokens)
        rotation = angles(self.config, positions, x.dtype)
        layer_caches = cache or [None] * len(self.layers)
        for layer, layer_cache in zip(self.layers, layer_caches, strict=True):
            x = layer(x, rotation, mask, layer_cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.norm(x)


class Llama(nn.Module):
    """LlamaModel and its output head. `sdpa=True`: attention by PyTorch's fused kernel."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(config, sdpa)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()
        self.apply(self._initialise)

    def tie_weights(self) -> None:
        """Make the head's weight the embedding itself, if the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _initialise(self, module: nn.Module) -> None:
        """As transformers: N(0, initializer_range) matrices, zero biases and padding row."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range or 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if self.config.pad_token_id is not None:
            nn.init.zeros_(self.model.embed_tokens.weight.data[self.config.pad_token_id])

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """Allocate an empty cache in the dtype and on the device of the weights."""
        weight = self.lm_head.weight
        return KVCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    def forward(
        self,
        tokens: Tokens,
        cache: KVCache | None = None,
        attention_mask: Padding | None = None,
        positions: Positions | None = None,
        last_only: bool = False,
    ) -> Logits:
        """Next-token logits at every position; with last_only, at the last, sparing T − 1 heads.

        attention_mask: 1 for real tokens, cached ones included. positions: None for the next ones.
        Raises ValueError if the mask has another shape or the cache has no room."""
        B, T = tokens.shape
        S = T + (cache.length if cache is not None else 0)
        if attention_mask is not None and attention_mask.shape != (B, S):
            found = f"attention_mask is {tuple(attention_mask.shape)}"
            raise ValueError(f"{found}, expected {B, S}: (batch, cached + new)")
        if positions is None:
            positions = next_positions(T, S, attention_mask, tokens.device)
        mask = causal_mask(T, S, attention_mask, tokens.device)
        x = self.model(tokens, positions, mask, cache)
        return self.lm_head(x[:, -1:] if last_only else x)


def next_positions(
    T: int, S: int, attention_mask: Padding | None, device: torch.device
) -> Positions:
    """Return the last T of S positions; padding is not counted and gets 0, as in transformers."""
    if attention_mask is None:
        return torch.arange(S - T, S, device=device)[None]
    positions = attention_mask.long().cumsum(-1) - 1
    return positions.masked_fill(attention_mask == 0, 0)[:, S - T :]
