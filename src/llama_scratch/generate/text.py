"""Generating in characters: pieces of text as they come, and strings to stop at.

A token may be part of a character, and a stop string may extend over several tokens and begin inside one. So each piece
consists of whole characters (Tokenizer.decode_stream), and text that may become a stop string is held back until it is
one, or cannot become one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from itertools import chain

import torch

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.generate.loop import GREEDY, PromptError, context_length, stream
from llama_scratch.generate.sampling import SamplingParams
from llama_scratch.generate.stop_ids import stop_ids
from llama_scratch.tokenizer import Tokenizer


class FinishReason(StrEnum):
    """Why a text ends."""

    TOKEN = "stop token"
    STRING = "stop string"
    LENGTH = "max_new_tokens"
    CONTEXT = "context"
    INTERRUPTED = "interrupted"


class TextStream:
    """A generation in progress. Iterate once to run it; these attributes are updated along the way.

    text                     all pieces so far, without stop token and stop string
    ids, log_probabilities   of every new token, the stop token included if there was one; log_probabilities
                             (DecodingStep.log_probabilities, nats) stay [] unless requested
    finish_reason            why it ended; None until then
    seconds_to_first_token   from the start of the iteration, the pass over the prompt included; None until then
    tokens_per_second        of all tokens but the first; None until there are two

    It ends at a stop id of the model's configuration or of the tokenizer, at the first of `stop` that the text
    completes, after `max_new_tokens`, and when the model's context is full. Raises PromptError for a prompt that leaves
    no room in the context, for an empty stop string, and for what `stream` refuses.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        max_new_tokens: int,
        params: SamplingParams = GREEDY,
        stop: Sequence[str] = (),
        generator: torch.Generator | None = None,
        fast: bool | None = None,
        log_probabilities: bool = False,
    ) -> None:
        context = context_length(model.config)
        if not prompt:
            raise PromptError("the prompt is empty and the tokenizer adds no BOS, expected one token or more")
        if len(prompt) >= context:
            expected = f"fewer than the model's context of {context}"
            raise PromptError(f"the prompt has {len(prompt)} tokens, expected {expected}")
        room = context - len(prompt)
        self._limit = FinishReason.LENGTH if max_new_tokens <= room else FinishReason.CONTEXT
        self._stop_ids = stop_ids(model.config, tokenizer)
        self._steps = stream(
            model,
            torch.tensor([list(prompt)], dtype=torch.long, device=model.lm_head.weight.device),
            min(max_new_tokens, room),
            params,
            stop_ids=self._stop_ids,
            generator=generator,
            fast=fast,
        )
        self._tokenizer = tokenizer
        self._prompt = list(prompt)
        self._filter = StopStringFilter(stop)
        self._wants_log_probabilities = log_probabilities
        self._times: list[float] = []
        self.text = ""
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Iterator[str]:
        self._times = [time.perf_counter()]
        # the decoder reads the prompt too: the first token of a text loses its leading space
        pieces = self._tokenizer.decode_stream(chain(self._prompt, self._new_ids()))
        with closing(self._steps):
            for _ in self._prompt:
                next(pieces)
            for piece in pieces:
                yield from self._appended(self._filter.add(piece))
                if self._filter.found_stop:
                    self.finish_reason = FinishReason.STRING
                    return
            yield from self._appended(self._filter.rest())

    def _appended(self, piece: str) -> Iterator[str]:
        self.text += piece
        if piece:
            yield piece

    def _new_ids(self) -> Iterator[int]:
        """Yield the new ids except the stop token."""
        for step in self._steps:
            self.ids.append(int(step.tokens[0]))
            if self._wants_log_probabilities:
                self.log_probabilities.append(step.log_probabilities.item())
            self._times.append(time.perf_counter())
            if self.ids[-1] in self._stop_ids:
                self.finish_reason = FinishReason.TOKEN
                return
            yield self.ids[-1]
        self.finish_reason = self._limit

    @property
    def seconds_to_first_token(self) -> float | None:
        """Seconds from the start of the iteration, the pass over the prompt included."""
        return self._times[1] - self._times[0] if len(self._times) > 1 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Rate of all tokens but the first."""
        if len(self._times) <= 2:
            return None
        return (len(self._times) - 2) / (self._times[-1] - self._times[1])


class StopStringFilter:
    """Passes text on up to the first stop string: of several the one that is complete first, and of those that end
    together the longest. The cut does not depend on how the text is divided into pieces. Raises PromptError for an
    empty stop string.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if not all(stop):
            raise PromptError("a stop string is empty, expected at least one character")
        self._stop = stop
        self._held = ""
        self.found_stop = False

    def add(self, piece: str) -> str:
        """Add a piece, and return the text that certainly precedes every stop string."""
        text = self._held + piece
        ends = []  # (end, start) of each stop string in the text
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0:
                ends.append((start + len(stop), start))
        if ends:
            self.found_stop = True
            self._held = ""
            return text[: min(ends)[1]]
        begun = max((_overlap(stop, text) for stop in self._stop), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def rest(self) -> str:
        """Return text held back as a possible stop-string prefix that was not one."""
        text = self._held
        self._held = ""
        return text


def _overlap(stop: str, text: str) -> int:
    """Length of the longest proper prefix of `stop` at the end of `text`."""
    return next(n for n in range(len(stop) - 1, -1, -1) if text.endswith(stop[:n]))
