"""A real checkpoint, component by component and layer by layer: `python -m llama_reference.verify DIR`.

transformers opens the directory; the implementation is built from the same fields and tensors; both are asked about
every component, on tokens of real text. The exit code is 0 when all agree, 1 when one is wrong or could not be judged,
and 2 when there is nothing to compare: a bad directory, adapter or option.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_reference.adapter_loader import load
from llama_reference.implementation import Config, State
from llama_reference.judge import error_growth, localization
from llama_reference.questions import layer_checks
from llama_reference.questions.activations import Inputs
from llama_reference.report import checkpoint_page
from llama_reference.report.files import write
from llama_reference.report.verification import Verification
from llama_reference.standard.cases import DTYPES, HARD

OURS = Path(__file__).resolve().parent.parent / "tests" / "adapters" / "ours.py"
NAMED = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
TEXT = (
    "Once upon a time there was a lighthouse whose keeper counted waves. He wrote 3.14159 on the wall, then laughed: "
    '"Why should the sea be round?" Nobody answered; in the morning 20,000 gulls had come, and the lamp was still lit.'
)


class BadInput(Exception):  # noqa: N818  it is no error of this program
    """There is nothing to compare. The message names the file and the reason."""


class Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage and line."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        word = message.removeprefix("unrecognized arguments: ").split()[0] if message else ""
        near = difflib.get_close_matches(word.split("=")[0], flags, n=1) if word.startswith("-") else []
        self.exit(2, f"error: {message}{f'; did you mean {near[0]}?' if near else ''}\n")


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = Options(prog="python -m llama_reference.verify", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="config.json and weights, as on the hub")
    parser.add_argument("--implementation", type=Path, default=OURS, metavar="PATH", help="adapter (%(default)s)")
    parser.add_argument("--dtype", choices=NAMED, help="what to compute in (default: the checkpoint's own)")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="length of the text (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    chosen = parser.parse_args(arguments)
    if chosen.tokens < 1:
        parser.error(f"argument --tokens: {chosen.tokens} is no length, give 1 or more")
    for name in ("json", "html"):  # known before the work, not after it
        path: Path | None = getattr(chosen, name)
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            parser.error(f"argument --{name}: {path}: not a file in an existing directory")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen = options(arguments)
    try:
        result = verify(chosen.directory, chosen.implementation, chosen.dtype, chosen.tokens)
    except BadInput as bad:
        print(f"error: {' '.join(str(bad).split())}", file=sys.stderr)
        return 2
    print(result.text())
    if chosen.json:
        write(chosen.json, json.dumps(result.values(), indent=1, allow_nan=False) + "\n")
    if chosen.html:
        write(chosen.html, checkpoint_page.render(result))
    return 0 if result.agrees else 1


def verify(directory: Path, implementation: Path, dtype: str | None = None, tokens: int = 32) -> Verification:
    """Compares the two on the checkpoint in `directory`. Raises BadInput."""
    try:
        adapter = load(implementation)
    except ImportError as error:
        raise BadInput(str(error)) from error
    model = opened(directory, NAMED[dtype] if dtype else None)
    inputs, source = text_of(directory, model.config.vocab_size, tokens)
    config, state = parts(model)
    questions = layer_checks.prepare(config, state, model.dtype, inputs, model)
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
    findings, running = localization.find(adapter, questions), error_growth.running(adapter, questions)
    return Verification(about, model.config.num_hidden_layers, findings, running)


def opened(directory: Path, dtype: torch.dtype | None) -> LlamaForCausalLM:
    """transformers' model in eval mode, with eager attention. Raises BadInput unless every weight is in its place."""
    try:
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"no JSON object: {error}"
        raise BadInput(f"{directory / 'config.json'}: {reason}") from error
    if kind != "llama":
        raise BadInput(f"{directory / 'config.json'}: model_type is {kind!r}, expected 'llama'")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    how: dict[str, Any] = {"dtype": dtype or "auto", "attn_implementation": "eager", "local_files_only": True}
    try:
        answer: Any = LlamaForCausalLM.from_pretrained(directory, output_loading_info=True, **how)
    except Exception as error:  # whatever is wrong with the files, transformers has its own type for it
        raise BadInput(f"{directory}: transformers cannot open it: {error}") from error
    model, loaded = answer
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, loaded[problem])):
            raise BadInput(f"{directory}: {problem.replace('_', ' ')}: {', '.join(keys)}")
    if model.dtype not in DTYPES:
        raise BadInput(f"{directory}: weights are {model.dtype}; choose a --dtype")
    opened: LlamaForCausalLM = model.eval()
    return opened


def parts(model: LlamaForCausalLM) -> tuple[Config, State]:
    """The fields of config.json as transformers reads them, and the tensors; a tied head is left out."""
    fields, state = model.config.to_dict(), dict(model.state_dict())
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


if __name__ == "__main__":
    raise SystemExit(main())
