"""Continue a prompt, or chat, with the model in a directory: `python -m llama_scratch.generate DIR ...`.

The text is written to stdout as it is generated, and a line about it to stderr.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.hf_directory import read_config
from llama_scratch.checkpoint.hints import check_directory
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.command_line import flag, is_usable, one_line_errors, parse
from llama_scratch.errors import LlamaScratchError
from llama_scratch.generate.chat import ChatError, ChatTemplate, Message
from llama_scratch.generate.loop import GenerationError, context_length
from llama_scratch.generate.sampling import RULES, SamplingParams
from llama_scratch.generate.text import FinishReason, TextStream
from llama_scratch.model.config_rules import ConfigError, check
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.tokenizer.settings import CONFIG, JSON, MODEL, TEMPLATE

TOGETHER = 0.05  # seconds between the lines of one paste, at most


@dataclass(frozen=True)
class GenerateConfig:
    """Command-line options. Raises ConfigError naming the flag if a value is invalid."""

    directory: tyro.conf.Positional[Path]
    """Directory with a checkpoint and its tokenizer, from the Hugging Face hub or from training."""
    prompt: str | None = None
    """Text to continue; - reads it from stdin."""
    interactive: bool = False
    """Ask for one prompt after another. Ctrl-C ends an answer; Ctrl-D or an empty line ends the program."""
    chat: bool | None = None
    """Treat prompts as messages of a conversation, using the checkpoint's chat template (default: if --interactive and
    the checkpoint has one)."""
    max_new_tokens: int = 256
    """Maximum number of new tokens; the text also ends when the model's context is full."""
    temperature: float = 0.7
    """0 takes the likeliest token; 1 samples from the model's own distribution."""
    top_k: int | None = None
    """Sample from the k likeliest tokens only."""
    top_p: float | None = None
    """Sample from the fewest likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Sample from tokens at least this fraction as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: tokens that are in the text already become less likely."""
    seed: int = 0
    """Random seed: the same seed gives the same text."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """End the text before this string; may be given several times."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the weights (default: the checkpoint's own)."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to compute on: cpu, cuda, cuda:1, ..."""
    fast: bool | None = None
    """Compile the step of one token first, or not (default: if that is expected to save time)."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Key of config.json to leave unread; may be given several times."""
    json: bool = False
    """Print one JSON object at the end and nothing else: text, ids, log-probabilities, finish reason, times."""

    def __post_init__(self) -> None:
        check("--max-new-tokens", self.max_new_tokens, "1 or more", lambda v: v >= 1)
        check("--stop", self.stop, "strings that are not empty", all)
        check("--seed", self.seed, "a number of 64 bits", lambda v: -(2**63) <= v < 2**64)
        check("--device", self.device, "a device that torch can use", is_usable)
        if self.prompt is None and not self.interactive:
            raise ConfigError("there is no prompt: give --prompt TEXT, --prompt - for stdin, or --interactive")
        if self.interactive and (self.json or self.prompt == "-"):
            other = "--json" if self.json else "--prompt -"
            raise ConfigError(f"--interactive and {other} are given, expected one of them")
        for name, rule in RULES.items():
            check(flag(name), getattr(self, name), *rule)

    @property
    def params(self) -> SamplingParams:
        """How tokens are chosen."""
        return SamplingParams(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


class Session:
    """A model, its tokenizer and the conversation so far. Raises a LlamaScratchError if one cannot be loaded."""

    def __init__(self, config: GenerateConfig) -> None:
        self.config = config
        _check_directory(config.directory, config.ignore)
        self.tokenizer = Tokenizer.from_pretrained(config.directory)  # before the weights, which take longer
        self.template = _template(config, self.tokenizer)
        dtype = getattr(torch, config.dtype) if config.dtype else None
        self.model = Llama.from_pretrained(config.directory, dtype=dtype, device=config.device, ignore=config.ignore)
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        self.messages: list[Message] = []

    def answer(self, prompt: str) -> TextStream:
        """Start the answer to a prompt. Raises a LlamaScratchError, and then leaves the conversation as it was."""
        if self.template is None:
            return self._write(self.tokenizer.encode_prompt(prompt))
        self.messages.append({"role": "user", "content": prompt})
        try:
            ids = self.template.encode(self.messages)
            context = context_length(self.model.config)
            if len(self.messages) > 1 and len(ids) >= context:
                _log(f"the conversation is longer than the context of {context} tokens: it starts anew")
                self.messages = self.messages[-1:]
                ids = self.template.encode(self.messages)
            return self._write(ids)
        except LlamaScratchError:
            self.messages.pop()
            raise

    def add_answer(self, stream: TextStream) -> None:
        """Add an answer to the conversation."""
        self.messages.append({"role": "assistant", "content": stream.text})

    def _write(self, ids: list[int]) -> TextStream:
        c = self.config
        return TextStream(
            self.model,
            self.tokenizer,
            ids,
            c.max_new_tokens,
            c.params,
            c.stop,
            self.generator,
            fast=c.fast,
            log_probabilities=c.json,
        )


def _check_directory(directory: Path, ignore: tuple[str, ...]) -> None:
    check_directory(directory)
    read_config(directory / "config.json", ignore)
    if not any((directory / name).is_file() for name in (JSON, MODEL)):
        raise CheckpointError(f"{directory} has neither {JSON} nor {MODEL}: cannot tokenize text")


def _template(config: GenerateConfig, tokenizer: Tokenizer) -> ChatTemplate | None:
    if not (config.interactive if config.chat is None else config.chat):
        return None
    template = ChatTemplate.from_pretrained(config.directory, tokenizer)
    if template is None and config.chat:
        raise ChatError(
            f"--chat needs a chat template: {config.directory} has neither {TEMPLATE} nor chat_template in {CONFIG}"
        )
    return template


def show(stream: TextStream) -> None:
    """Print a text while it is generated; Ctrl-C ends it. Raises GenerationError after printing the text so far."""
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.finish_reason = FinishReason.INTERRUPTED
    except GenerationError:
        if stream.text and not stream.text.endswith("\n"):
            print(flush=True)
        raise
    if not stream.text.endswith("\n"):
        print(flush=True)
    _log(summary(stream))


def summary(stream: TextStream) -> str:
    """Sum up a text in one line: how much, how fast, why it ended."""
    count = len(stream.ids)
    parts = ["1 token" if count == 1 else f"{count} tokens"]
    if stream.tokens_per_second is not None:
        parts.append(f"{stream.tokens_per_second:.0f} tokens/s")
    if stream.seconds_to_first_token is not None:
        parts.append(f"the first after {stream.seconds_to_first_token:.3f} s")
    reason = ENDED[stream.finish_reason or FinishReason.INTERRUPTED]
    return f"[{', '.join(parts)}; {reason}; torch {torch.__version__}]"


ENDED = {
    FinishReason.TOKEN: "the model ended it",
    FinishReason.STRING: "ended before a --stop string",
    FinishReason.LENGTH: "ended by --max-new-tokens",
    FinishReason.CONTEXT: "ended because the model's context is full",
    FinishReason.INTERRUPTED: "interrupted",
}


def as_json(stream: TextStream) -> str:
    """Generate a text and return it as JSON. Raises GenerationError if the model's logits are not finite."""
    for _ in stream:
        pass
    return json.dumps(
        {
            "text": stream.text,
            "ids": stream.ids,
            "log_probabilities": stream.log_probabilities,
            "finish_reason": stream.finish_reason,
            "seconds_to_first_token": stream.seconds_to_first_token,
            "tokens_per_second": stream.tokens_per_second,
            "torch": torch.__version__,
        },
        ensure_ascii=False,
        allow_nan=False,
    )


def interact(session: Session) -> None:
    """Answer prompts until there are no more."""
    for prompt in _prompts(session.config.prompt):
        try:
            stream = session.answer(prompt)
        except LlamaScratchError as error:  # concerns this prompt only
            _log(f"error: {error}")
            continue
        show(stream)
        if session.template is not None:
            session.add_answer(stream)


def _prompts(first: str | None) -> Iterator[str]:
    if first is not None:
        yield first
    asking = sys.stdin.isatty()
    if asking:
        with suppress(ImportError):  # not everywhere: history and arrow keys for input()
            import readline  # noqa: F401
    while True:
        try:
            prompt = _pasted(input("> ")) if asking else input()
        except (EOFError, KeyboardInterrupt):
            if asking:
                print()
            return
        if not prompt.strip():
            return
        yield prompt


def _pasted(first: str) -> str:
    """Join a line with those that arrive together with it: several pasted lines are one prompt."""
    lines = [first]
    while select.select([sys.stdin], [], [], TOGETHER)[0]:
        lines.append(input())
    return "\n".join(lines)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(config: GenerateConfig) -> int:
    """Run the command and return its exit status. Raises LlamaScratchError or OSError."""
    text = sys.stdin.read().removesuffix("\n") if config.prompt == "-" else config.prompt
    session = Session(config)
    if config.interactive:
        interact(session)
        return 0
    stream = session.answer(text or "")
    if config.json:
        print(as_json(stream), flush=True)
    else:
        show(stream)
    return 130 if stream.finish_reason is FinishReason.INTERRUPTED else 0


class OnceFilter:
    """A logging filter that passes each message once: what concerns the model would be repeated for every answer."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for a new message."""
        message = record.getMessage()
        new = message not in self._logged
        self._logged.add(message)
        return new


def main() -> None:
    """Run the command line, on which every field of GenerateConfig is a flag."""
    with one_line_errors():
        config = parse(GenerateConfig, "python -m llama_scratch.generate", __doc__, config=(tyro.conf.DisallowNone,))
        if not config.json:  # show what is compiled, and how long it took
            handler = logging.StreamHandler()
            handler.addFilter(OnceFilter())  # of this handler only: others are not this program's
            logging.basicConfig(format="[%(message)s]", handlers=[handler])
            logging.getLogger("llama_scratch").setLevel(logging.INFO)
        sys.exit(run(config))
