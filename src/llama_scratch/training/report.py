"""What a run prints when it starts, and when it ends."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import torch

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.command_line import this_python
from llama_scratch.data import Corpus, find_files
from llama_scratch.data.baselines import unigram_bits_per_byte, xz_bits_per_byte
from llama_scratch.data.corpus import VALIDATION_TEXT
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import Distributed
from llama_scratch.training.metrics import Metrics, last_validation
from llama_scratch.training.speed import RunUnits, is_compiled


def introduction(
    config: TrainConfig, corpus: Corpus, model: Llama, units: RunUnits, team: Distributed, done: int
) -> str:
    """Describe sizes, text, machine, and the choices that the run makes itself."""
    sizes = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    source = f"from {config.init_from}" if config.init_from else f"preset {config.preset}"
    compiled = is_compiled(config.compile, units, team.device)
    total = units.flops_per_token * units.tokens_per_step * units.steps
    files = len(find_files(config.data))
    origin = f"{files} file{'s' if files != 1 else ''}" if files else "the documentation of Python"
    return "\n".join(
        (
            f"model   {parameters:.2f} M parameters, {source}: {sizes.num_hidden_layers} layers of width "
            f"{sizes.hidden_size}, {sizes.num_attention_heads} heads, vocabulary of {sizes.vocab_size}",
            f"text    {origin}: {len(corpus.training):,} tokens to train on, {len(corpus.validation):,} held out; "
            f"tokenised in {corpus.directory}/",
            f"run     {config.steps} steps of {config.batch_size} x {config.seq_len} tokens, peak learning rate "
            f"{config.learning_rate:.2g}, {total:.1e} floating-point operations"
            + (f"; resumed after step {done}" if done else ""),
            f"device  {team.size} x {team.device}, {config.dtype}, {'compiled' if compiled else 'not compiled'}",
            f"peak    {units.peak_flops / 1e9:,.0f} GFLOP/s, measured just now: the fastest product of two square "
            f"matrices{' on one device, times their number' if team.size > 1 else ''}; training is compared with it",
        )
    )


def baselines(config: TrainConfig) -> dict[str, float]:
    """Bits per byte of the held-out text without a model, by name."""
    text = ((config.tokens_dir or config.out / "tokens") / VALIDATION_TEXT).read_bytes()
    return {"single bytes": unigram_bits_per_byte(text), "xz -9": xz_bits_per_byte(text)}


def summary(config: TrainConfig, history: list[Metrics]) -> str:
    """Sum up a run in a few lines: a sample, validation, baselines, speed, and how to use the result."""
    single, packed = baselines(config).values()
    validated = last_validation(history)
    validation = "none so far"
    sample: tuple[str, ...] = ()
    if validated is not None:
        validation = f"{validated.validation_bits_per_byte:.3f} bits/byte on held-out text, less is better"
        sample = ("What the model writes:", "", validated.sample or "", "")
    last = history[-1]
    return "\n".join(
        (
            *sample,
            f"validation  {validation}",
            f"            for comparison, on the same held-out text: {single:.3f} from the frequencies of single "
            f"bytes, {packed:.3f} by xz -9",
            f"training    {last.step} steps in {last.seconds:.0f} s, last {last.tokens_per_second:,} tokens/s "
            f"({last.share_of_peak:.0%} of peak), loss {last.loss:.3f} nats/token (torch {torch.__version__})",
            f"saved       {config.out}/: a Hugging Face checkpoint, log.jsonl"
            + (" and loss.png" if (config.out / "loss.png").exists() else "; loss.png needs matplotlib"),
            f"try it      {this_python()} -m llama_scratch.generate {shlex.quote(str(config.out))} --prompt 'The '",
            f'open it     llama_scratch.Llama.from_pretrained("{config.out}") or '
            f'transformers.AutoModelForCausalLM.from_pretrained("{config.out}")',
        )
    )


def numbers(config: TrainConfig, history: list[Metrics]) -> dict[str, Any]:
    """Return the same for a program: the last row without its sample, and the last validation."""
    validated = last_validation(history)
    last = dataclasses.asdict(history[-1])
    del last["sample"]
    last["validation_bits_per_byte"] = validated.validation_bits_per_byte if validated is not None else None
    return last | {"out": str(config.out)}
