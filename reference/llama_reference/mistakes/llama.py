"""Mistakes in how the model is put together."""

import torch
import torch.nn.functional as F

from llama_reference.mistakes.mistake import mistake, wide
from llama_reference.standard.stepwise import StepwiseLlama

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _embedded(change):
    return lambda self, handle, tokens: change(handle, StepwiseLlama.embed(self, handle, tokens))


def _headed(change):
    return lambda self, handle, x: change(StepwiseLlama.head(self, handle, x))


def _layers_of(change):
    return lambda self, config: change(StepwiseLlama.layers(self, config))


def _called(change):
    """llama with other inputs: change(tokens, positions, mask)."""

    def llama(self, handle, tokens, positions, mask, cache=None):
        return StepwiseLlama.llama(self, handle, *change(tokens, positions, mask), cache)

    return llama


def _other_norm(name):
    return lambda self, handle, x: self.rms_norm(handle, name, x)


def _norm_without_gain(self, handle, x):
    return self.normalise(x, self.eps(handle.config)).to(x.dtype)


def _with_positions(handle, x):
    T, D = x.shape[1:]
    angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, D, 2) / D)
    return x + torch.cat((angles.sin(), angles.cos()), dim=-1).to(x.dtype)


MISTAKES = [
    mistake("final_norm_missing", "the head reads the last layer's output as it is", final_norm=lambda _s, _h, x: x),
    mistake("final_norm_of_a_layer", "the last layer's norm stands where the final one belongs",
            final_norm=_other_norm("model.layers.2.post_attention_layernorm")),
    mistake("final_norm_without_gain", "the final norm has no weight", final_norm=_norm_without_gain),
    mistake("final_norm_twice", "the final norm is applied twice",
            final_norm=lambda s, h, x: StepwiseLlama.final_norm(s, h, StepwiseLlama.final_norm(s, h, x))),
    mistake("embedding_as_head", "the embedding is the head though the model is not tied", "tinygrad#13796",
            head=lambda _s, h, x: F.linear(x, h[EMBEDDING])),
    mistake("head_negated_when_tied", "a tied model gets a head of its own",  "vllm#6758, keras-hub#1895",
            head=lambda s, h, x: StepwiseLlama.head(s, h, x).roll(1, -1) if h.config["tie_word_embeddings"]
            else StepwiseLlama.head(s, h, x)),
    mistake("tied_by_copy", "the tied head is a copy: forward nothing shows, the embedding's gradient lacks a part",
            "parallax#444", head=lambda s, h, x: F.linear(x, h[EMBEDDING].detach())
            if h.config["tie_word_embeddings"] else StepwiseLlama.head(s, h, x)),
    mistake("embedding_scaled", "the embedding is multiplied by √hidden_size, as in Gemma",
            embed=_embedded(lambda h, x: x * h.config["hidden_size"] ** 0.5)),
    mistake("embedding_normed", "the embedding is normalised before the first layer",
            embed=_embedded(lambda _h, x: x * torch.rsqrt(wide(x).pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype))),
    mistake("absolute_positions", "a cosine encoding of positions is added to the embedding", embed=_embedded(_with_positions)),
    mistake("tokens_one_off", "token t - 1 is embedded instead of t", embed=lambda s, h, t: StepwiseLlama.embed(
        s, h, (t - 1).clamp(min=0))),
    mistake("embedding_detached", "no gradient reaches the embedding through the layers",
            embed=_embedded(lambda _h, x: x.detach())),
    mistake("layers_reversed", "layers run from last to first", layers=_layers_of(lambda n: n[::-1])),
    mistake("last_layer_skipped", "the last layer is left out", layers=_layers_of(lambda n: n[:-1])),
    mistake("first_layer_skipped", "the first layer is left out", layers=_layers_of(lambda n: n[1:])),
    mistake("first_layer_for_all", "all layers share the weights of the first", layers=_layers_of(lambda n: [0] * len(n))),
    mistake("last_layer_for_all", "all layers share the weights of the last, as of one layer that is loaded again and again",
            layers=_layers_of(lambda n: [n[-1]] * len(n))),
    mistake("last_layer_twice", "the last layer runs twice", layers=_layers_of(lambda n: [*n, n[-1]])),
    mistake("two_layers_exchanged", "the first two layers are exchanged", layers=_layers_of(lambda n: [n[1], n[0], *n[2:]])),
    mistake("logits_capped", "logits are softly capped at 30, as in Gemma 2", head=_headed(lambda y: 30 * (y / 30).tanh())),
    mistake("logits_scaled", "logits are divided by √hidden_size", head=lambda s, h, x: StepwiseLlama.head(s, h, x) / h.config["hidden_size"] ** 0.5),
    mistake("logits_in_float32", "logits are returned in float32 whatever the model's dtype", "transformers#29285",
            head=_headed(wide)),
    mistake("logits_as_log_probabilities", "log-probabilities are returned instead of logits",
            head=_headed(lambda y: y.log_softmax(-1))),
    mistake("logits_one_late", "the logits of position t are those of t - 1", head=_headed(lambda y: y.roll(1, 1))),
    mistake("mask_not_passed_on", "the padding mask does not reach the layers", "unsloth#4078",
            llama=_called(lambda t, p, m: (t, p, None if m is None else torch.ones_like(m)))),
    mistake("positions_not_passed_on", "positions are counted from 0 whatever is given",
            llama=_called(lambda t, p, m: (t, torch.arange(t.shape[1]).expand_as(p), m))),
    mistake("first_rows_positions", "all rows get the positions of the first",
            llama=_called(lambda t, p, m: (t, p[:1].expand_as(p), m))),
]  # fmt: skip
