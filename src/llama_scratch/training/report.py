"""What a run says when it starts, and when it ends."""

from __future__ import annotations

from typing import Any

import torch

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.data import Corpus
from llama_scratch.data.baselines import unigram_bits_per_byte, xz_bits_per_byte
from llama_scratch.data.corpus import VALIDATION_TEXT
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import Team
from llama_scratch.training.metrics import VALIDATION, Row
from llama_scratch.training.speed import Scale, is_compiled


def introduction(config: TrainConfig, corpus: Corpus, model: Llama, scale: Scale, team: Team, done: int) -> str:
    """Sizes, text, machine, and the choices that the run made itself."""
    sizes = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    source = f"from {config.init_from}" if config.init_from else f"preset {config.preset}"
    compiled = is_compiled(config.compile, scale, team.device)
    total = scale.flops_per_token * scale.tokens_per_step * scale.steps
    return "\n".join(
        (
            f"model   {parameters:.2f} M parameters, {source}: {sizes.num_hidden_layers} layers of width "
            f"{sizes.hidden_size}, {sizes.num_attention_heads} heads, {sizes.vocab_size} pieces",
            f"text    {len(corpus.training):,} tokens to train on, {len(corpus.validation):,} held out, in "
            f"{corpus.directory}/",
            f"run     {config.steps} steps of {config.batch_size} windows of {config.context} tokens, learning rate "
            f"{config.learning_rate:.2g}, {total:.1e} operations" + (f"; goes on after step {done}" if done else ""),
            f"device  {team.size} × {team.device}, {config.dtype}, {'compiled' if compiled else 'not compiled'}; a "
            f"product of matrices reaches {scale.peak_flops / team.size / 1e9:,.0f} GFLOP/s",
        )
    )


def summary(config: TrainConfig, history: list[Row]) -> str:
    """The end of a run in a few lines: a sample, how well, against what, how long, and what can be done with it."""
    text = ((config.tokens or config.out / "tokens") / VALIDATION_TEXT).read_bytes()
    validated = [row for row in history if VALIDATION in row]
    last = history[-1]
    return "\n".join(
        (
            *((validated[-1]["sample"], "") if validated else ()),
            f"validation  {validated[-1][VALIDATION]:.3f} bits/byte" if validated else "validation  none so far",
            f"            {unigram_bits_per_byte(text):.3f} is the entropy of its single bytes, "
            f"{xz_bits_per_byte(text):.3f} what xz -9 makes of it",
            f"training    {last['step']} steps in {last['seconds']:.0f} s, {last['tokens_per_second']:,} tokens/s, "
            f"last loss {last['loss']:.3f} nats/token (torch {torch.__version__})",
            f"saved       {config.out}/ as a Hugging Face checkpoint, log.jsonl"
            + (" and loss.png" if (config.out / "loss.png").exists() else "; loss.png needs matplotlib"),
            f'open it     llama_scratch.Llama.from_pretrained("{config.out}") or '
            f'transformers.AutoModelForCausalLM.from_pretrained("{config.out}")',
        )
    )


def numbers(config: TrainConfig, history: list[Row]) -> dict[str, Any]:
    """The same for a program: the last row without its sample, and the last validation."""
    validated = [row[VALIDATION] for row in history if VALIDATION in row]
    last = {name: value for name, value in history[-1].items() if name != "sample"}
    return last | {VALIDATION: validated[-1] if validated else None, "out": str(config.out)}
