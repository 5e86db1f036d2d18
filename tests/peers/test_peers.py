"""Other people's Llamas, and stand-ins for some: their adapters are short, and give the formula's answers where their
programs do. A package that is not installed is skipped: README.md says how to install each.
"""

import statistics
from pathlib import Path

import pytest

from llama_reference.adapter_loader import load
from tests.peers import plain

HERE = Path(__file__).parent
STANDINS = ("cs336_student", "gpt_fast_style", "nanochat_style", "rasbt_style", "scratch_llm_style")
PACKAGES = {
    "litgpt_gpt": "litgpt",
    "torchtune_llama": "torchtune",
    "mlx_lm_llama": "mlx_lm",
    "x_transformers_decoder": "x_transformers",
    "keras_hub_llama": "keras_hub",
}
# What is wrong with a program, on a plain Llama: part of the answer's name, and why.
WRONG = {
    "scratch_llm_style": {"rms_norm", "block", "llama", "new_cache, crop and reorder"},  # the norm's ε
    "nanochat_style": {"rms_norm", "block", "llama", "new_cache, crop and reorder"},  # no ε
    "keras_hub_llama": {"rms_norm", "block", "llama", "new_cache, crop and reorder"},  # its converter leaves ε out
    "x_transformers_decoder": {"rms_norm", "llama"},  # no ε
}
MOST, STUDENTS = 60, 20


def lines(adapter: str) -> int:
    """Those that are neither empty nor a comment."""
    text = (HERE / f"{adapter}.py").read_text(encoding="utf-8")
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def test_adapters_are_short():
    counts = {adapter: lines(adapter) for adapter in (*STANDINS, *PACKAGES)}
    assert statistics.median(counts.values()) <= MOST, counts
    assert counts["cs336_student"] <= STUDENTS


@pytest.mark.parametrize("adapter", [*STANDINS, *PACKAGES])
def test_a_peer_answers_as_the_formula_does(adapter):
    if adapter in PACKAGES:
        pytest.importorskip(PACKAGES[adapter], reason=f"{PACKAGES[adapter]} is not installed: tests/peers/README.md")
    found = plain.off(load(HERE / f"{adapter}.py"))
    assert len(found) >= 5
    assert {label for label, times in found.items() if times > 1} == WRONG.get(adapter, set())
