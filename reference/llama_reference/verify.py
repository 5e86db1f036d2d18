"""A real checkpoint, component by component and layer by layer: `llama-reference verify DIR ADAPTER.py`.

transformers opens the directory; the implementation is built from the same fields and tensors; both are asked about
every component, on tokens of real text. The exit code is 0 when all agree, 1 when one is wrong or could not be judged,
and 2 when there is nothing to compare: a bad directory, adapter or option.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_reference.adapter_loader import load
from llama_reference.command_line import UsageError
from llama_reference.implementation import Config, State
from llama_reference.judge import error_growth, localization, replay, rounding
from llama_reference.questions import layer_checks
from llama_reference.questions.activations import Inputs
from llama_reference.report import checkpoint_page
from llama_reference.report.files import write
from llama_reference.report.verification import Verification
from llama_reference.standard.cases import DTYPES, HARD

NAMED = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
TEXT = (
    "Once upon a time there was a lighthouse whose keeper counted waves. He wrote 3.14159 on the wall, then laughed: "
    '"Why should the sea be round?" Nobody answered; in the morning 20,000 gulls had come, and the lamp was still lit.'
)


def tell(result: Verification, json_file: Path | None, html_file: Path | None) -> int:
    """Print what was found and write the files; return the exit status."""
    print(result.text())
    if json_file:
        write(json_file, json.dumps(result.values(), indent=1, allow_nan=False) + "\n")
    if html_file:
        write(html_file, checkpoint_page.render(result))
    return 0 if result.agrees else 1


def verify(directory: Path, implementation: Path, dtype: str | None = None, tokens: int = 32) -> Verification:
    """Compare the two on the checkpoint in `directory`. Raises UsageError."""
    adapter = load(implementation)
    model = opened(directory, NAMED[dtype] if dtype else None)
    inputs, source = text_of(directory, model.config.vocab_size, tokens)
    config, state = parts(model)
    all_checks = [layer_checks.prepare(config, state, model.dtype, inputs, model)]
    if model.dtype != torch.float32:  # which hides what a 16-bit dtype shows only far out, or not at all
        all_checks.append(layer_checks.prepare(*_in_float32(config, state, inputs)))
    B, T = inputs.tokens.shape
    size = sum(weight.numel() for weight in state.values())
    padded = ", ".join(map(str, (~inputs.real).sum(-1).tolist()))
    about = {
        "checkpoint": f"{directory} ({model.config.num_hidden_layers} layers, {size:,} parameters)",
        "implementation": str(implementation),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": f"{B} rows of {T}, padded by {padded} (compared: what real tokens answer), {source}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    by_checks = [localization.find(adapter, checks) for checks in all_checks]
    findings = [finding for found in by_checks for finding in found]
    return Verification(
        about,
        list(range(model.config.num_hidden_layers)),
        findings,
        error_growth.running(adapter, all_checks[0]),
        names_of(adapter, all_checks, findings),
        rounding.certified(all_checks[0], by_checks[0]),
        rounding.same_tokens(adapter, all_checks[0]),
    )


def _in_float32(config: Config, state: State, inputs: Inputs) -> tuple[Config, State, torch.dtype, Inputs]:
    config, state, inputs = layer_checks.first_layer(config, state, inputs)
    return config, state, torch.float32, inputs


def names_of(
    adapter: Any, all_checks: list[layer_checks.LayerChecks], findings: list[localization.Finding]
) -> dict[str, str]:
    """By component, the known mistake that its culprits look like: they are layers of the same code."""
    by_name: dict[str, list[localization.Finding]] = {}
    for culprit in localization.culprits(findings):
        by_name.setdefault(culprit.name, []).append(culprit)
    found = {name: replay.looks_like(adapter, all_checks, culprits) for name, culprits in by_name.items()}
    return {name: str(known[0]) if known else "looks like no known mistake" for name, known in found.items()}


def opened(directory: Path, dtype: torch.dtype | None) -> LlamaForCausalLM:
    """transformers' model in eval mode, with eager attention. Raises UsageError unless every weight is in its place."""
    try:
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"not a JSON object: {error}"
        raise UsageError(f"{directory / 'config.json'}: {reason}") from error
    if kind != "llama":
        raise UsageError(f"{directory / 'config.json'}: model_type is {kind!r}, expected 'llama'")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    how: dict[str, Any] = {"dtype": dtype or "auto", "attn_implementation": "eager", "local_files_only": True}
    try:
        answer: Any = LlamaForCausalLM.from_pretrained(directory, output_loading_info=True, **how)
    except Exception as error:  # whatever is wrong with the files, transformers has its own type for it
        raise UsageError(f"{directory}: transformers cannot open it: {error}") from error
    model, loaded = answer
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, loaded[problem])):
            raise UsageError(f"{directory}: {problem.replace('_', ' ')}: {', '.join(keys)}")
    if model.dtype not in DTYPES:
        raise UsageError(f"{directory}: weights are {model.dtype}; choose a --dtype")
    opened: LlamaForCausalLM = model.eval()
    return opened


def parts(model: LlamaForCausalLM) -> tuple[Config, State]:
    """The fields of config.json as transformers reads them, and the tensors; a tied head is left out."""
    fields = model.config.to_dict()
    state = dict(model.state_dict())
    if fields["tie_word_embeddings"]:
        del state["lm_head.weight"]
    return {name: fields[name] for name in HARD}, state


def text_of(directory: Path, vocab_size: int, length: int) -> tuple[Inputs, str]:
    """Three rows of the text with padding in front, and where their tokens come from."""
    source = "text through the checkpoint's tokenizer"
    try:
        ids = AutoTokenizer.from_pretrained(directory, local_files_only=True)(TEXT)["input_ids"]
        if not ids or max(ids) >= vocab_size:
            raise ValueError("the tokenizer belongs to another vocabulary")
    except Exception:  # there are as many ways of having no tokenizer as there are tokenizers
        source = "random (transformers opens no tokenizer there)"
        ids = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    pads = torch.tensor([0, length // 8, length // 3])
    mask = (torch.arange(length) >= pads[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    rows = positions + torch.arange(len(pads))[:, None] * (len(ids) // 3)  # each row from another place of the text on
    return Inputs(torch.tensor(ids)[rows % len(ids)], positions, mask), source
