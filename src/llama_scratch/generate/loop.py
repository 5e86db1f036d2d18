"""One decoding loop, with the cache or without it, one text or many."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llama_scratch.dtypes import dtype_name
from llama_scratch.errors import LlamaScratchError
from llama_scratch.fast import Decoder, choose_decoder
from llama_scratch.generate.sampling import SamplingParams, likeliest, next_token_probabilities, penalised
from llama_scratch.model.config import LlamaConfig, Padding, Tokens
from llama_scratch.model.config_rules import ORIGINAL_CONTEXT_KEY
from llama_scratch.model.llama import Llama

GREEDY = SamplingParams(temperature=0.0)


class GenerationError(LlamaScratchError, ValueError):
    """No token can be chosen: the model's logits are not finite. The message says where, and what to try."""


@dataclass(frozen=True, eq=False)
class DecodingStep:
    """One new token of every row."""

    tokens: Int[Tensor, " B"]
    """A filler where the row had stopped before."""
    running: Bool[Tensor, " B"]
    """Which rows go on behind it."""
    logits: Float[Tensor, "B V"]
    """What the model said, before any knob."""

    @property
    def log_probabilities(self) -> Float[Tensor, " B"]:
        """log p (nats) of each row's token under the model's own distribution, in float32: log softmax of its logits,
        whatever temperature, filters and penalty it was drawn with. Of a filler it means nothing.
        """
        return self.logits.float().log_softmax(-1).gather(-1, self.tokens[:, None])[:, 0]


def generate(
    model: Llama,
    tokens: Tokens,
    max_new_tokens: int,
    temperature: float = 0.0,
    use_cache: bool = True,
    attention_mask: Padding | None = None,
    stop_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    fast: bool | None = None,
) -> Int[Tensor, "B T_and_new"]:
    """`tokens` followed by up to `max_new_tokens` new ones, the prompt included, as transformers' `generate`.

    temperature 0 takes the likeliest token, a higher one samples; sampling.py has the params, all of them off at None.
    The rest, errors included, is as in `stream`, which also has the log-probabilities.
    """
    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty)
    steps = stream(model, tokens, max_new_tokens, params, use_cache, attention_mask, stop_ids, generator, fast)
    return torch.cat([tokens, *(step.tokens[:, None] for step in steps)], dim=1)


def stream(
    model: Llama,
    tokens: Tokens,
    max_new_tokens: int,
    params: SamplingParams = GREEDY,
    use_cache: bool = True,
    attention_mask: Padding | None = None,
    stop_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    fast: bool | None = None,
) -> Generator[DecodingStep, None, None]:
    """The new tokens, one step at a time; the model is in evaluation mode until the last one, or `close()`.

    A row stops at a stop id (None: the configuration's eos_token_id; []: never) and is filled with pad_token_id, or
    else the first stop id, until every row has stopped. Prompts of different lengths are padded on the left, with an
    attention_mask: `pad_left`. `fast` compiles the step over a cache (fast/), once for all models of these sizes: a
    token then costs a third on a CPU. None does so where it is expected to pay.

    Raises ValueError, before the first step, for a prompt that this cannot go on from, a negative count, and where
    prompt and new tokens are more than the model's context; GenerationError at a step whose logits are not finite.
    """
    _check(tokens, attention_mask, model.config.vocab_size, max_new_tokens)
    _check_length(tokens, attention_mask, model.config, max_new_tokens)
    fast = fast if use_cache else False
    longest = context_length(model.config)
    decoder = choose_decoder(model, fast, max_new_tokens, len(tokens), attention_mask is not None, longest)
    return _steps(model, decoder, tokens, max_new_tokens, params, use_cache, attention_mask, stop_ids, generator)


def _steps(
    model: Llama,
    decoder: Decoder,
    tokens: Tensor,
    max_new_tokens: int,
    params: SamplingParams,
    use_cache: bool,
    attention_mask: Tensor | None,
    stop_ids: Sequence[int] | None,
    generator: torch.Generator | None,
) -> Generator[DecodingStep, None, None]:
    stops, filler = _stops_and_filler(model, stop_ids)
    B, T = tokens.shape
    cache = decoder.new_cache(B, T + max_new_tokens) if use_cache else None
    running = torch.ones(B, dtype=torch.bool, device=tokens.device)
    all_running = True
    unseen = tokens
    reads_text = cache is None or attention_mask is not None or params.repetition_penalty is not None
    with _evaluating(model):
        for number in range(1, max_new_tokens + 1):
            with torch.no_grad():  # not around the loop: between yields the caller's grad mode must hold
                logits = decoder(unseen, cache, attention_mask, last_only=True)[:, -1]
            usable = _usable(logits, running, number, model)
            chosen = choose(usable, tokens, params, attention_mask, generator)
            if not all_running:  # skipped before: an op costs 0.02 ms of a small model's 2 ms per token
                chosen = chosen.where(running, filler)
            unseen = chosen[:, None]
            if reads_text:
                tokens = torch.cat((tokens, unseen), dim=1)
                unseen = unseen if cache is not None else tokens
            if attention_mask is not None:
                attention_mask = F.pad(attention_mask, (0, 1), value=1)
            stopped = [row for row, token in enumerate(chosen.tolist()) if token in stops] if stops else []
            if stopped:
                running = running.index_fill(0, torch.tensor(stopped, device=running.device), False)
                all_running = False
            yield DecodingStep(chosen, running, logits)
            if not (all_running or running.any()):
                return


def _usable(logits: Tensor, running: Tensor, number: int, model: Llama) -> Tensor:
    """The logits, where every row that runs can choose a token by them; a row that has stopped gets zeros for NaN.

    The largest tells: it is NaN where any is, infinite where there is no distribution. (−∞ alone excludes a token.)
    """
    wide = logits.float()
    largest = wide.gather(-1, likeliest(wide)[:, None])
    if largest.isfinite().all():
        return logits
    bad = ~largest.isfinite()[:, 0] & running
    if bad.any():
        row = int(bad.nonzero()[0])
        raise GenerationError(_overflow(logits[row], row if len(logits) > 1 else None, number, model))
    return logits.masked_fill(~running[:, None], 0)


def _overflow(logits: Tensor, row: int | None, number: int, model: Llama) -> str:
    """What is known about logits that are not finite, and what to try."""
    kind = "NaN" if logits.isnan().any() else "infinite"
    where = f"new token {number}" if row is None else f"new token {number} of row {row}"
    dtype = model.lm_head.weight.dtype
    name = dtype_name(dtype)
    broken = [key for key, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        others = f" (and {len(broken) - 1} other weights)" if len(broken) > 1 else ""
        cause = f"{broken[0]}{others} is not finite in {name}"
    else:
        cause = f"probably an overflow in {name}" + (", which ends at 65,504" if dtype == torch.float16 else "")
    remedy = {torch.float16: "try --dtype bfloat16 or float32", torch.bfloat16: "try --dtype float32"}
    advice = remedy.get(dtype, "the checkpoint is damaged: get it anew")
    return f"the logits of {where} are {kind}, expected finite numbers: {cause}; {advice}"


def choose(
    logits: Float[Tensor, "B V"],
    tokens: Tokens,
    params: SamplingParams,
    attention_mask: Int[Tensor, "B T"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """The next token of every row."""
    if params.temperature == 0:
        return likeliest(penalised(logits, tokens, params, attention_mask))
    probabilities = next_token_probabilities(logits, tokens, params, attention_mask)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device | str | None = None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Prompts of any lengths side by side: their ids, and an attention_mask that says which of them are real.

    Raises ValueError for an empty prompt, and for none at all.
    """
    if not prompts or not all(prompts):
        found = f"the prompts have {[len(p) for p in prompts]} tokens"
        raise ValueError(f"{found}, expected at least one prompt, and at least one token in each")
    T = max(map(len, prompts))
    tokens = torch.tensor([[0] * (T - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts], device=device)
    return tokens, mask


def context_length(config: LlamaConfig) -> int:
    """The longest text that the model is meant for. Frequencies that are stretched by a factor reach that much farther
    than the length that they were trained with, where max_position_embeddings does not count that already.
    """
    rope, longest = config.rope_parameters, config.max_position_embeddings
    if rope["rope_type"] not in ("linear", "dynamic", "yarn"):
        return longest
    return max(longest, int(rope.get(ORIGINAL_CONTEXT_KEY, longest) * rope["factor"]))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again, even if the model has raised."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _stops_and_filler(model: Llama, stop_ids: Sequence[int] | None) -> tuple[set[int], int]:
    filler = model.config.pad_token_id
    stop_ids = configured_stop_ids(model.config) if stop_ids is None else stop_ids
    return set(stop_ids), filler if filler is not None else [*stop_ids, 0][0]


def configured_stop_ids(config: LlamaConfig) -> list[int]:
    """eos_token_id as a list."""
    eos = config.eos_token_id
    return eos if isinstance(eos, list) else [eos] if eos is not None else []


def _check(tokens: Tensor, attention_mask: Tensor | None, vocab_size: int, max_new_tokens: int) -> None:
    if tokens.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token, for instance BOS")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        found = f"{int(tokens.min())} to {int(tokens.max())}"
        raise ValueError(f"the prompt's ids run from {found}, expected 0 to vocab_size - 1 = {vocab_size - 1}")
    if attention_mask is not None and not attention_mask[:, -1].all():
        rows = (attention_mask[:, -1] == 0).nonzero()[:, 0].tolist()
        raise ValueError(f"attention_mask ends in padding in rows {rows}, expected prompts padded on the left")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")


def _check_length(tokens: Tensor, attention_mask: Tensor | None, config: LlamaConfig, max_new_tokens: int) -> None:
    """Padding takes no positions."""
    longest = context_length(config)
    prompt = tokens.shape[1] if attention_mask is None else max(attention_mask.sum(-1).tolist(), default=0)
    if prompt > longest:
        raise ValueError(f"the prompt has {prompt} tokens, expected at most {longest}: the model's context")
    if prompt + max_new_tokens > longest:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, expected at most {longest - prompt}: the prompt has {prompt} tokens, "
            f"the model's context {longest}"
        )
