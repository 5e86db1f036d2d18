"""Generating in characters: pieces of text as they come, and strings to stop at.

A token may be part of a character, and a stop string may be spread over tokens and begin in the middle of one. So
pieces are whole characters (Tokenizer.decode_stream), and what may still become a stop string is held back until it is
one, or can no longer be.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from itertools import chain

import torch

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.generate.loop import GREEDY, configured_stop_ids, context_length, stream
from llama_scratch.generate.sampling import SamplingParams
from llama_scratch.tokenizer import Tokenizer


class FinishReason(StrEnum):
    """Why a text ends."""

    TOKEN = "stop token"
    STRING = "stop string"
    LENGTH = "max_new_tokens"
    CONTEXT = "context"
    INTERRUPTED = "interrupted"


class TextStream:
    """What a model writes behind a prompt. Iterating over it, once, generates; meanwhile and afterwards it has

    text                     all pieces so far; neither a stop string nor a stop token is part of it
    ids, log_probabilities   of every new token, the last of them a stop token if that is what it stopped at;
                             log_probabilities (DecodingStep.log_probabilities, nats) are [] unless asked for
    finish_reason            why it ended; None until then
    seconds_to_first_token   from the start of the iteration, the prompt's own pass included; None until there is one
    tokens_per_second        of all tokens but the first; None until there are two

    It stops at the stop ids of the model's configuration and of the tokenizer, at the first of `stop` that the text
    completes, after `max_new_tokens`, and where the model's context is full. Raises ValueError for a prompt that leaves
    no room in the context, for an empty stop string, and for what `stream` refuses.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer, prompt: Sequence[int], max_new_tokens: int,
                 params: SamplingParams = GREEDY, stop: Sequence[str] = (), generator: torch.Generator | None = None,
                 fast: bool | None = None, log_probabilities: bool = False) -> None:  # fmt: skip
        context = context_length(model.config)
        if not prompt:
            raise ValueError("the prompt is empty and the tokenizer puts nothing in front, expected one token or more")
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, expected fewer than the model's context of {context}"
            )
        room = context - len(prompt)
        self._ending = FinishReason.LENGTH if max_new_tokens <= room else FinishReason.CONTEXT
        self._stop_ids = list(dict.fromkeys(configured_stop_ids(model.config) + tokenizer.stop_ids))
        tokens = torch.tensor([list(prompt)], dtype=torch.long, device=model.lm_head.weight.device)
        self._steps = stream(
            model, tokens, min(max_new_tokens, room), params, stop_ids=self._stop_ids, generator=generator, fast=fast
        )
        self._tokenizer, self._prompt, self._filter = tokenizer, list(prompt), StopStringFilter(stop)
        self._wants_log_probabilities = log_probabilities
        self._times: list[float] = []
        self.text = ""
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Iterator[str]:
        self._times = [time.perf_counter()]
        # the decoder sees the prompt too: a space in front is a space only where a text does not begin
        pieces = self._tokenizer.decode_stream(chain(self._prompt, self._new_ids()))
        with closing(self._steps):
            for _ in self._prompt:
                next(pieces)
            for piece in pieces:
                yield from self._noted(self._filter.add(piece))
                if self._filter.found_stop:
                    self.finish_reason = FinishReason.STRING
                    return
            yield from self._noted(self._filter.rest())

    def _noted(self, piece: str) -> Iterator[str]:
        self.text += piece
        if piece:
            yield piece

    def _new_ids(self) -> Iterator[int]:
        """What the decoder gets: not the stop token."""
        for step in self._steps:
            self.ids.append(int(step.tokens[0]))
            if self._wants_log_probabilities:
                self.log_probabilities.append(step.log_probabilities.item())
            self._times.append(time.perf_counter())
            if self.ids[-1] in self._stop_ids:
                self.finish_reason = FinishReason.TOKEN
                return
            yield self.ids[-1]
        self.finish_reason = self._ending

    @property
    def seconds_to_first_token(self) -> float | None:
        """From the start of the iteration, the prompt's own pass included."""
        return self._times[1] - self._times[0] if len(self._times) > 1 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of all tokens but the first."""
        return (len(self._times) - 2) / (self._times[-1] - self._times[1]) if len(self._times) > 2 else None


class StopStringFilter:
    """Text up to the first stop string: of several, the one that is complete first, and of those that end together the
    longest. The cut does not depend on the pieces that the text comes in. Raises ValueError for an empty string.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if not all(stop):
            raise ValueError("a stop string is empty, expected at least one character")
        self._stop, self._waiting, self.found_stop = stop, "", False

    def add(self, piece: str) -> str:
        """What is certain to stand before every stop string."""
        text = self._waiting + piece
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        self.found_stop = bool(found)
        begun = max((_begun(stop, text) for stop in self._stop), default=0)
        end = min(found)[1] if found else len(text) - begun
        self._waiting = "" if found else text[end:]
        return text[:end]

    def rest(self) -> str:
        """What waited in vain for the rest of a stop string."""
        text, self._waiting = self._waiting, ""
        return text


def _begun(stop: str, text: str) -> int:
    """How many characters of `stop`, but not all of them, stand at the end of `text`."""
    return next(n for n in range(len(stop) - 1, -1, -1) if text.endswith(stop[:n]))
