"""What a run says when it starts, and when it ends."""

from __future__ import annotations

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
from llama_scratch.training.metrics import VALIDATION, Row
from llama_scratch.training.speed import RunUnits, is_compiled


def introduction(
    config: TrainConfig, corpus: Corpus, model: Llama, scale: RunUnits, team: Distributed, done: int
) -> str:
    """Sizes, text, machine, and the choices that the run made itself."""
    sizes = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    source = f"from {config.init_from}" if config.init_from else f"preset {config.preset}"
    compiled = is_compiled(config.compile, scale, team.device)
    total = scale.flops_per_token * scale.tokens_per_step * scale.steps
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
            + (f"; goes on after step {done}" if done else ""),
            f"device  {team.size} x {team.device}, {config.dtype}, {'compiled' if compiled else 'not compiled'}",
            f"peak    {scale.peak_flops / 1e9:,.0f} GFLOP/s, measured just now: the fastest product of two square "
            f"matrices{' on one device, times their number' if team.size > 1 else ''}; training is compared with it",
        )
    )


def baselines(config: TrainConfig) -> dict[str, float]:
    """Bits a byte of the held-out text without a model, by what they are."""
    text = ((config.tokens_dir or config.out / "tokens") / VALIDATION_TEXT).read_bytes()
    return {"single bytes": unigram_bits_per_byte(text), "xz -9": xz_bits_per_byte(text)}


def summary(config: TrainConfig, history: list[Row]) -> str:
    """The end of a run in a few lines: a sample, how well, against what, how long, and what can be done with it."""
    single, packed = baselines(config).values()
    validated = [row for row in history if VALIDATION in row]
    validation = "none so far"
    if validated:
        validation = f"{validated[-1][VALIDATION]:.3f} bits/byte on held-out text, less is better"
    last = history[-1]
    return "\n".join(
        (
            *(("What the model writes:", "", validated[-1]["sample"], "") if validated else ()),
            f"validation  {validation}",
            f"            for comparison, on the same held-out text: {single:.3f} from the frequencies of single "
            f"bytes, {packed:.3f} by xz -9",
            f"training    {last['step']} steps in {last['seconds']:.0f} s, last {last['tokens_per_second']:,} tokens/s "
            f"({last['share_of_peak']:.0%} of peak), loss {last['loss']:.3f} nats/token (torch {torch.__version__})",
            f"saved       {config.out}/: a Hugging Face checkpoint, log.jsonl"
            + (" and loss.png" if (config.out / "loss.png").exists() else "; loss.png needs matplotlib"),
            f"try it      {this_python()} -m llama_scratch.generate {shlex.quote(str(config.out))} --prompt 'The '",
            f'open it     llama_scratch.Llama.from_pretrained("{config.out}") or '
            f'transformers.AutoModelForCausalLM.from_pretrained("{config.out}")',
        )
    )


def numbers(config: TrainConfig, history: list[Row]) -> dict[str, Any]:
    """The same for a program: the last row without its sample, and the last validation."""
    validated = [row[VALIDATION] for row in history if VALIDATION in row]
    last = {name: value for name, value in history[-1].items() if name != "sample"}
    return last | {VALIDATION: validated[-1] if validated else None, "out": str(config.out)}
