"""The decoding loop, with or without a cache, for one text or a batch."""

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
from llama_scratch.generate.stop_ids import stop_ids as configured_stop_ids
from llama_scratch.model.config import LlamaConfig, Padding, Tokens
from llama_scratch.model.config_rules import ORIGINAL_CONTEXT_KEY
from llama_scratch.model.llama import Llama

GREEDY = SamplingParams(temperature=0.0)


class PromptError(LlamaScratchError, ValueError):
    """A prompt, or a number of new tokens, from which generation cannot start."""


class GenerationError(LlamaScratchError, ValueError):
    """Logits that are not finite, so that no token can be chosen; the message says where, and what to try."""


@dataclass(frozen=True, eq=False)
class DecodingStep:
    """One new token of every row."""

    tokens: Int[Tensor, " B"]
    """The new tokens; a filler in rows that had stopped before."""
    running: Bool[Tensor, " B"]
    """Return True for rows that continue after this token."""
    logits: Float[Tensor, "B V"]
    """The model's logits, before penalty, temperature and filters."""

    @property
    def log_probabilities(self) -> Float[Tensor, " B"]:
        """Log-probability (nats, float32) of each row's token under the model's own distribution, whatever temperature,
        filters and penalty it was drawn with. That of a filler has no meaning.
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
    """Return `tokens` and up to `max_new_tokens` new ones after them, like transformers' `generate`.

    temperature 0 takes the likeliest token, a higher one samples; sampling.py explains the filters, each off at None.
    The other arguments and the errors are those of `stream`, which also gives log-probabilities.
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
    """Yield the new tokens, one step at a time; the model is in evaluation mode until the last one, or `close()`.

    A row stops at a stop id (None: the configuration's eos_token_id; []: never) and is filled with pad_token_id, or
    with the first stop id, until every row has stopped. Prompts of different lengths are padded on the left, with an
    attention_mask: see `pad_left`. `fast` compiles the step over a cache (fast/), once for all models of these sizes;
    then a token takes a third of the time on a CPU. None compiles if that is expected to pay.

    Raises PromptError before the first step for an invalid prompt, a negative number of tokens, and if prompt and new
    tokens exceed the model's context; GenerationError at a step whose logits are not finite.
    """
    _check(tokens, attention_mask, model.config.vocab_size, max_new_tokens)
    _check_length(tokens, attention_mask, model.config, max_new_tokens)
    fast = fast if use_cache else False
    longest = context_length(model.config)
    decoder = choose_decoder(model, fast, max_new_tokens, len(tokens), attention_mask is not None, longest)
    return _steps(
        model=model,
        decoder=decoder,
        tokens=tokens,
        max_new_tokens=max_new_tokens,
        params=params,
        use_cache=use_cache,
        attention_mask=attention_mask,
        stop_ids=configured_stop_ids(model.config) if stop_ids is None else stop_ids,
        generator=generator,
    )


def _steps(
    *,
    model: Llama,
    decoder: Decoder,
    tokens: Tensor,
    max_new_tokens: int,
    params: SamplingParams,
    use_cache: bool,
    attention_mask: Tensor | None,
    stop_ids: Sequence[int],
    generator: torch.Generator | None,
) -> Generator[DecodingStep, None, None]:
    stops = frozenset(stop_ids)
    filler = _filler(model.config.pad_token_id, stop_ids)
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
    """Return the logits, with zeros in stopped rows that are not finite. Raises GenerationError for a running row.

    The largest logit decides: it is NaN if any logit is, and infinite if there is no distribution. (A single −∞ only
    excludes a token.)
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
    """Say what is known about logits that are not finite, and what to try."""
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
    """Choose the next token of every row."""
    if params.temperature == 0:
        return likeliest(penalised(logits, tokens, params, attention_mask))
    probabilities = next_token_probabilities(logits, tokens, params, attention_mask)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device | str | None = None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Batch prompts of any lengths: their ids, padded on the left, and the attention_mask that is 0 for padding.

    Raises PromptError for an empty prompt, and for an empty list.
    """
    if not prompts or not all(prompts):
        lengths = [len(prompt) for prompt in prompts]
        raise PromptError(
            f"the prompts have {lengths} tokens, expected at least one prompt, and at least one token in each"
        )
    T = max(map(len, prompts))
    tokens = torch.tensor([[0] * (T - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts], device=device)
    return tokens, mask


def context_length(config: LlamaConfig) -> int:
    """Longest text that the model is meant for.

    Scaled rotary frequencies extend the original context by their factor, which max_position_embeddings may or may not
    include.
    """
    rope = config.rope_parameters
    longest = config.max_position_embeddings
    if rope["rope_type"] not in ("linear", "dynamic", "yarn"):
        return longest
    return max(longest, int(rope.get(ORIGINAL_CONTEXT_KEY, longest) * rope["factor"]))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every module at the end, even if the model raises."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _filler(pad_token_id: int | None, stop_ids: Sequence[int]) -> int:
    """Token of a row that has stopped."""
    if pad_token_id is not None:
        return pad_token_id
    return stop_ids[0] if stop_ids else 0


def _check(tokens: Tensor, attention_mask: Tensor | None, vocab_size: int, max_new_tokens: int) -> None:
    if tokens.shape[1] == 0:
        raise PromptError("the prompt is empty: give at least one token, for instance BOS")
    if tokens.numel():
        lowest = int(tokens.min())
        highest = int(tokens.max())
        if lowest < 0 or highest >= vocab_size:
            expected = f"0 to vocab_size - 1 = {vocab_size - 1}"
            raise PromptError(f"the prompt's ids run from {lowest} to {highest}, expected {expected}")
    if attention_mask is not None and not attention_mask[:, -1].all():
        rows = (attention_mask[:, -1] == 0).nonzero()[:, 0].tolist()
        raise PromptError(f"attention_mask ends in padding in rows {rows}, expected prompts padded on the left")
    if max_new_tokens < 0:
        raise PromptError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")


def _check_length(tokens: Tensor, attention_mask: Tensor | None, config: LlamaConfig, max_new_tokens: int) -> None:
    """Raise PromptError if the text would exceed the model's context, in which padding does not count."""
    longest = context_length(config)
    prompt = tokens.shape[1] if attention_mask is None else max(attention_mask.sum(-1).tolist(), default=0)
    if prompt > longest:
        raise PromptError(f"the prompt has {prompt} tokens, expected at most {longest}: the model's context")
    if prompt + max_new_tokens > longest:
        raise PromptError(
            f"max_new_tokens is {max_new_tokens}, expected at most {longest - prompt}: the prompt has {prompt} tokens, "
            f"the model's context {longest}"
        )
