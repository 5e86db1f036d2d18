r"""The whole model: a decoder-only transformer that predicts the next token.

    x₀ = E[tokens],    x_l = Block_l(x_{l−1}),    logits = W_head RMSNorm(x_L)

With `tie_word_embeddings` W_head *is* E: one tensor under two names. Attributes carry Hugging Face's names, so that
`load_state_dict(strict=True)` of a transformers model is the whole claim about parameters.

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


class Decoder(nn.Module):
    """Embedding, blocks and final norm. Raises ValueError where the cache has no room."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(Block(config, sdpa) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tokens, positions: Positions, mask: Mask, cache: KVCache | None = None) -> Hidden:
        x = self.embed_tokens(tokens)
        rotation = angles(self.config, positions, x.dtype)
        for layer, layer_cache in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            x = layer(x, rotation, mask, layer_cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.norm(x)


class Llama(nn.Module):
    """The decoder and its head. `sdpa=True` computes attention by PyTorch's fused kernel instead of the formula."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, sdpa)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()
        self.apply(self._initialise)

    def tie_weights(self) -> None:
        """Makes the head's weight the embedding itself, where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _initialise(self, module: nn.Module) -> None:
        """As transformers: N(0, initializer_range) for matrices, 0 for biases and the padding row, 1 for gains."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range or 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if self.config.pad_token_id is not None:
            nn.init.zeros_(self.model.embed_tokens.weight.data[self.config.pad_token_id])

    def forward(self, tokens: Tokens, cache: KVCache | None = None, attention_mask: Padding | None = None,
                positions: Positions | None = None, last_only: bool = False) -> Logits:  # fmt: skip
        """Logits of the token after each of `tokens`, or after the last one only, which spares a prompt T − 1 heads.
        attention_mask: 1 for real tokens, cached ones included; positions: None for the next ones. Raises ValueError
        where the mask has another shape or the cache no room."""
        B, T = tokens.shape
        S = T + (cache.length if cache is not None else 0)
        if attention_mask is not None and attention_mask.shape != (B, S):
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {B, S}: (batch, cached + new)")
        positions = next_positions(T, S, attention_mask, tokens.device) if positions is None else positions
        x = self.model(tokens, positions, causal_mask(T, S, attention_mask, tokens.device), cache)
        return self.lm_head(x[:, -1:] if last_only else x)


def next_positions(T: int, S: int, attention_mask: Padding | None, device: torch.device) -> Positions:
    """The last T of S positions. With a mask only real tokens count, padding gets 0, as in transformers' `generate`."""
    if attention_mask is None:
        return torch.arange(S - T, S, device=device)[None]
    return (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)[:, S - T :]
