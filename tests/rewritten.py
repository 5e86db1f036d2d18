"""A second, independent Llama and mistakes in it, written from one-line descriptions by somebody who has not seen how
the catalogue writes them: what the diagnosis is tried on. STRANGERS are mistakes that the catalogue does not have.
"""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh")}


class Textbook:
    """A correct Llama: weights in a dict by their names, a cache that is concatenated to, boolean masks."""

    def build(self, config, state, dtype):
        weights = {name: tensor.detach().clone().to(dtype).requires_grad_() for name, tensor in state.items()}
        return SimpleNamespace(config=config, weights=weights)

    def parameters(self, model):
        return model.weights

    def linear(self, model, name, x):
        return F.linear(x, model.weights[f"{name}.weight"], model.weights.get(f"{name}.bias"))

    # RMSNorm

    def rms_norm(self, model, where, x):
        wide = x.float()
        normed = wide * torch.rsqrt(self.mean_square(wide) + model.config["rms_norm_eps"])
        return self.gain(model.weights[f"{where}.weight"], normed, x.dtype)

    def mean_square(self, x):
        return (x * x).mean(dim=-1, keepdim=True)

    def gain(self, weight, normed, dtype):
        return weight * normed.to(dtype)

    # rotary embedding

    def rotary(self, model, q, k, positions):
        cos, sin = self.angles(model, positions, q.dtype)
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)

    def angles(self, model, positions, dtype):
        theta, sharpening = self.frequencies(model.config, int(positions.max()) + 1)
        angles = positions[:, None, :, None].float() * theta
        return [(f(angles) * sharpening).to(dtype) for f in (torch.cos, torch.sin)]

    def rotate(self, x, cos, sin):
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def frequencies(self, config, length):
        """Radians per position for every pair, and the factor on cosine and sine."""
        rope = config["rope_parameters"]
        H = config["head_dim"]
        trained = config["max_position_embeddings"]
        kind = rope["rope_type"]
        base = rope["rope_theta"]
        factor = rope.get("factor", 1.0)
        if kind == "dynamic" and length > trained:
            base *= (factor * length / trained - (factor - 1)) ** (H / (H - 2))
        theta = base ** -(torch.arange(0, H, 2).float() / H)
        if kind == "linear":
            return theta / factor, 1.0
        if kind == "llama3":
            return self.llama3(theta, rope), 1.0
        if kind == "yarn":
            return self.yarn(theta, rope, H), 0.1 * math.log(factor) + 1.0
        if kind == "longrope":
            original = rope["original_max_position_embeddings"]
            stretch = torch.tensor(rope["long_factor"] if length > original else rope["short_factor"])
            return theta / stretch, math.sqrt(1 + math.log(factor) / math.log(original))
        return theta, 1.0

    def llama3(self, theta, rope):
        low = rope["low_freq_factor"]
        high = rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * theta / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return kept * theta + (1 - kept) * theta / rope["factor"]

    def yarn(self, theta, rope, H):
        def pair(turns):
            return H / 2 * math.log(rope["original_max_position_embeddings"] / (2 * math.pi * turns)) / math.log(base)

        base = rope["rope_theta"]
        first = max(math.floor(pair(rope.get("beta_fast", 32))), 0)
        last = min(math.ceil(pair(rope.get("beta_slow", 1))), H - 1)
        stretched = ((torch.arange(H // 2) - first) / max(last - first, 1e-3)).clamp(0, 1)
        return stretched * theta / rope["factor"] + (1 - stretched) * theta

    # attention and its cache

    def attention(self, model, layer, x, positions, mask, cache=None):
        at = f"model.layers.{layer}.self_attn"
        H = model.config["head_dim"]
        q = self.linear(model, f"{at}.q_proj", x).unflatten(-1, (-1, H)).transpose(1, 2)
        k = self.linear(model, f"{at}.k_proj", x).unflatten(-1, (-1, H)).transpose(1, 2)
        v = self.linear(model, f"{at}.v_proj", x).unflatten(-1, (-1, H)).transpose(1, 2)
        q, k = self.rotary(model, q, k, positions)
        if cache is not None:
            k, v = self.remember(cache, layer, k, v)
        q = q.unflatten(1, (k.shape[1], -1))
        scores = torch.einsum("bgrth,bgsh->bgrts", q, k) / math.sqrt(H)
        scores = scores.masked_fill(~self.visible(q.shape[3], k.shape[2], mask), torch.finfo(x.dtype).min)
        heads = torch.einsum("bgrts,bgsh->btgrh", self.attend(scores), v)
        return self.linear(model, f"{at}.o_proj", heads.flatten(2))

    def visible(self, T, S, mask):
        causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)
        return causal if mask is None else causal & mask[:, None, None, None, :].bool()

    def attend(self, scores):
        return scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)

    def new_cache(self, model, batch, length):  # noqa: ARG002
        return {}

    def remember(self, cache, layer, k, v):
        if layer in cache:
            k, v = (torch.cat(pair, dim=2) for pair in zip(cache[layer], (k, v), strict=True))
        cache[layer] = k, v
        return k, v

    # feed-forward, layer, model

    def swiglu(self, model, layer, x):
        gate = self.linear(model, f"model.layers.{layer}.mlp.gate_proj", x)
        up = self.linear(model, f"model.layers.{layer}.mlp.up_proj", x)
        return self.linear(model, f"model.layers.{layer}.mlp.down_proj", self.gated(model, gate, up))

    def gated(self, model, gate, up):
        return ACTIVATIONS[model.config["hidden_act"]](gate) * up

    def block(self, model, layer, x, positions, mask, cache=None):
        x = x + self.attention(model, layer, self.first_norm(model, layer, x), positions, mask, cache)
        return x + self.swiglu(model, layer, self.second_norm(model, layer, x))

    def first_norm(self, model, layer, x):
        return self.rms_norm(model, f"model.layers.{layer}.input_layernorm", x)

    def second_norm(self, model, layer, x):
        return self.rms_norm(model, f"model.layers.{layer}.post_attention_layernorm", x)

    def llama(self, model, tokens, positions, mask, cache=None):
        x = model.weights["model.embed_tokens.weight"][tokens]
        for layer in range(model.config["num_hidden_layers"]):
            x = self.block(model, layer, x, positions, mask, cache)
        head = "model.embed_tokens" if model.config["tie_word_embeddings"] else "lm_head"
        return self.linear(model, head, self.rms_norm(model, "model.norm", x))

    # loss and decoding

    def loss(self, logits, labels):
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    def sampling(self, logits, tokens, temperature, top_k, top_p, min_p, repetition_penalty):
        z = logits.float()
        if repetition_penalty is not None:
            penalised = torch.where(z > 0, z / repetition_penalty, z * repetition_penalty)
            z = torch.where(self.said(tokens, z.shape[1]), penalised, z)
        if temperature == 0:
            return F.one_hot(z.argmax(dim=-1), z.shape[1]).float()
        z = z / temperature
        if top_k is not None:
            last = z.sort(descending=True).values[:, min(top_k, z.shape[1]) - 1]
            z = z.masked_fill(z < last[:, None], -math.inf)
        if top_p is not None:
            ascending, order = z.sort(stable=True)
            drop = self.mass(ascending) <= 1 - top_p
            drop[:, -1] = False
            z = z.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -math.inf)
        if min_p is not None:
            p = z.softmax(dim=-1)
            z = z.masked_fill(p < min_p * p.max(dim=-1, keepdim=True).values, -math.inf)
        return z.softmax(dim=-1)

    def said(self, tokens, V):
        return F.one_hot(tokens, V).any(dim=1)

    def mass(self, ascending):
        return ascending.softmax(dim=-1).cumsum(dim=-1)

    @torch.no_grad()
    def generate(self, model, tokens, mask, new, use_cache):
        mask = torch.ones_like(tokens) if mask is None else mask
        cache = self.new_cache(model, len(tokens), tokens.shape[1] + new) if use_cache else None
        unseen = tokens
        for _ in range(new):
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -unseen.shape[1] :]
            logits = self.llama(model, unseen, positions, mask, cache)
            chosen = self.newest(logits, mask).argmax(dim=-1)[:, None]
            tokens = torch.cat((tokens, chosen), dim=1)
            mask = F.pad(mask, (0, 1), value=1)
            unseen = chosen if use_cache else tokens
        return tokens

    def newest(self, logits, mask):  # noqa: ARG002
        return logits[:, -1]


class DividesByOneLess(Textbook):
    def mean_square(self, x):
        return (x * x).sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)


class GainBeforeTheCast(Textbook):
    def gain(self, weight, normed, dtype):
        return (weight.float() * normed).to(dtype)


class LowAndHighSwapped(Textbook):
    def llama3(self, theta, rope):
        swapped = {"low_freq_factor": rope["high_freq_factor"], "high_freq_factor": rope["low_freq_factor"]}
        return super().llama3(theta, rope | swapped)


class Length8192(Textbook):
    def llama3(self, theta, rope):
        return super().llama3(theta, rope | {"original_max_position_embeddings": 8192})


class NeighbourPairs(Textbook):
    def rotate(self, x, cos, sin):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)


class LinearOnTheta(Textbook):
    def frequencies(self, config, length):
        rope = config["rope_parameters"]
        if rope["rope_type"] == "linear":
            rope = {"rope_type": "default", "rope_theta": rope["rope_theta"] / rope["factor"]}
        return super().frequencies(config | {"rope_parameters": rope}, length)


class WrongWayRound(Textbook):
    def rotate(self, x, cos, sin):
        return super().rotate(x, cos, -sin)


class SoftmaxOverQueries(Textbook):
    def attend(self, scores):
        return scores.softmax(dim=-2, dtype=torch.float32).to(scores.dtype)


class DropoutInEval(Textbook):
    def attend(self, scores):
        return F.dropout(super().attend(scores), p=0.1)


class QBiasDropped(Textbook):
    def linear(self, model, name, x):
        if name.endswith("q_proj"):
            return F.linear(x, model.weights[f"{name}.weight"])
        return super().linear(model, name, x)


class GateMissing(Textbook):
    def gated(self, model, gate, up):  # noqa: ARG002
        return ACTIVATIONS[model.config["hidden_act"]](up)


class FirstResidualMissing(Textbook):
    def block(self, model, layer, x, positions, mask, cache=None):
        x = self.attention(model, layer, self.first_norm(model, layer, x), positions, mask, cache)
        return x + self.swiglu(model, layer, self.second_norm(model, layer, x))


class FirstNormMissing(Textbook):
    def first_norm(self, model, layer, x):  # noqa: ARG002
        return x


class SecondResidualFromTheNormed(Textbook):
    def block(self, model, layer, x, positions, mask, cache=None):
        x = x + self.attention(model, layer, self.first_norm(model, layer, x), positions, mask, cache)
        x = self.second_norm(model, layer, x)
        return x + self.swiglu(model, layer, x)


class ValuesOfLayer0(Textbook):
    def remember(self, cache, layer, k, v):
        k, _ = super().remember(cache, layer, k, v)
        return k, cache[0][1]


class MaskNotPassedOn(Textbook):
    def llama(self, model, tokens, positions, mask, cache=None):  # noqa: ARG002
        return super().llama(model, tokens, positions, None, cache)


class LogitsCapped(Textbook):
    def llama(self, model, tokens, positions, mask, cache=None):
        return 30 * torch.tanh(super().llama(model, tokens, positions, mask, cache) / 30)


class SoftmaxTwice(Textbook):
    def loss(self, logits, labels):
        return super().loss(logits.float().softmax(dim=-1), labels)


class PenaltyOnTheRest(Textbook):
    def said(self, tokens, V):
        return ~super().said(tokens, V)


class TopPOfLogits(Textbook):
    def mass(self, ascending):
        return ascending.cumsum(dim=-1)


REWRITTEN: dict[str, Any] = {
    "rms_norm-divides_by_one_less": DividesByOneLess(),
    "rms_norm-gain_before_the_cast": GainBeforeTheCast(),
    "rotary-llama3_low_and_high_swapped": LowAndHighSwapped(),
    "rotary-llama3_length_8192": Length8192(),
    "rotary-neighbour_pairs": NeighbourPairs(),
    "rotary-linear_on_theta": LinearOnTheta(),
    "rotary-wrong_way_round": WrongWayRound(),
    "attention-softmax_over_queries": SoftmaxOverQueries(),
    "attention-dropout_in_eval": DropoutInEval(),
    "attention-q_bias_dropped": QBiasDropped(),
    "swiglu-gate_missing": GateMissing(),
    "block-first_residual_missing": FirstResidualMissing(),
    "block-first_norm_missing": FirstNormMissing(),
    "block-second_residual_from_the_normed": SecondResidualFromTheNormed(),
    "kv_cache-values_of_layer_0": ValuesOfLayer0(),
    "llama-mask_not_passed_on": MaskNotPassedOn(),
    "llama-logits_capped": LogitsCapped(),
    "loss-softmax_twice": SoftmaxTwice(),
    "sampling-penalty_on_the_rest": PenaltyOnTheRest(),
    "sampling-top_p_of_logits": TopPOfLogits(),
}


class HalvesNormedApart(Textbook):
    """Each half of the channels has its own mean square, as in a grouped norm."""

    def mean_square(self, x):
        return (x * x).unflatten(-1, (2, -1)).mean(dim=-1).repeat_interleave(x.shape[-1] // 2, dim=-1)


class KeysTurnedBack(Textbook):
    """Queries turn one way and keys the other: scores depend on the sum of positions."""

    def rotary(self, model, q, k, positions):
        cos, sin = self.angles(model, positions, q.dtype)
        return self.rotate(q, cos, sin), self.rotate(k, cos, -sin)


class Chunked(Textbook):
    """A query sees its own block of 16 columns only, as in Llama 4's local layers."""

    def visible(self, T, S, mask):
        block = torch.arange(S) // 16
        return super().visible(T, S, mask) & (block[S - T :, None] == block)


class UpPlusOne(Textbook):
    """The gate multiplies up + 1, as in gpt-oss."""

    def gated(self, model, gate, up):
        return super().gated(model, gate, up + 1)


class SecondResidualFromTheInput(Textbook):
    """The feed-forward's output is added to the layer's input; attention reaches the stream through it alone."""

    def block(self, model, layer, x, positions, mask, cache=None):
        attended = x + self.attention(model, layer, self.first_norm(model, layer, x), positions, mask, cache)
        return x + self.swiglu(model, layer, self.second_norm(model, layer, attended))


class NewBeforeOld(Textbook):
    """New keys and values are put in front of the cached ones."""

    def remember(self, cache, layer, k, v):
        if layer in cache:
            k, v = (torch.cat(pair, dim=2) for pair in zip((k, v), cache[layer], strict=True))
        cache[layer] = k, v
        return k, v


class OddLayersUnturned(Textbook):
    """Every second layer turns nothing, somewhat as in SmolLM 3."""

    def attention(self, model, layer, x, positions, mask, cache=None):
        return super().attention(model, layer, x, positions * (1 - layer % 2), mask, cache)


class ZLoss(Textbook):
    """PaLM's z-loss is added."""

    def loss(self, logits, labels):
        return super().loss(logits, labels) + 1e-4 * logits[:, :-1].float().logsumexp(dim=-1).square().mean()


class PenaltyOnTheLastFour(Textbook):
    """Only the last four tokens are penalised, as with a repeat_last_n."""

    def said(self, tokens, V):
        return super().said(tokens[:, -4:], V)


class ReadAsIfPaddedRight(Textbook):
    """The next token is read where a prompt padded on the right would end."""

    def newest(self, logits, mask):
        last = (mask.sum(dim=1) - 1).clamp(max=logits.shape[1] - 1)
        return logits[torch.arange(len(logits)), last]


STRANGERS: dict[str, tuple[str, Any]] = {
    "halves_normed_apart": ("rms_norm", HalvesNormedApart()),
    "keys_turned_back": ("rotary", KeysTurnedBack()),
    "chunked": ("attention", Chunked()),
    "up_plus_one": ("swiglu", UpPlusOne()),
    "second_residual_from_the_input": ("block", SecondResidualFromTheInput()),
    "new_before_old": ("kv_cache", NewBeforeOld()),
    "odd_layers_unturned": ("llama", OddLayersUnturned()),
    "z_loss": ("loss", ZLoss()),
    "penalty_on_the_last_four": ("sampling", PenaltyOnTheLastFour()),
    "read_as_if_padded_right": ("generate", ReadAsIfPaddedRight()),
}
