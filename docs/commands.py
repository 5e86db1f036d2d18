"""The shell blocks of README and docs: each command is run as it stands or shortened, or CI runs it elsewhere.

They run where the README's reader stands after `make train`: in a folder with out/, a text, an adapter (conftest.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from sybil import Document, Example, Lexeme, Region

import llama_reference.__main__

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```sh\n(?P<commands>.*?)^```\n", re.MULTILINE | re.DOTALL)
PYTHON, PYTEST, KIT = ".venv/bin/python", ".venv/bin/pytest", ".venv/bin/llama-reference"
CHROMIUM = "chromium --headless --hide-scrollbars --window-size=1000,560"
PUBLISHED = "benchmarks/published.json"
# what takes minutes, and where it is run instead
ELSEWHERE = {
    "make train": "tests/ours/test_train.py",
    "make test": ".ci/run",
    "make test-thorough": "by hand: it takes long",
    "make report": "by hand, and tests/test_report.py",
    "make mutants": "by hand: it takes long",
    "make bench": "by hand: it takes long",
    "make docs": ".ci/run",
    "make lint": ".ci/run",
    f"{CHROMIUM} --screenshot=docs/figures/report.png report/index.html": "by hand: no browser is a requirement",
    f"{PYTHON} -m benchmarks.plots {PUBLISHED} docs/figures docs/speed.md": "tests/ours/test_docs.py",
    PYTEST: "make test",
    f"{PYTEST} --benchmark-only": ".ci/run, with --small",
    f"{PYTEST} --implementation my_adapter.py": "tests/test_report.py",
    f"{KIT} check my_adapter.py --quick": "tests/ours/test_kit_package.py",
    f"{KIT} check my_adapter.py": "tests/ours/test_kit_package.py",
    f"{KIT} check docs/my_norm.py": "tests/ours/test_docs.py",
    f"{KIT} check docs/my_norm.py --component rms_norm": "tests/ours/test_docs.py",
    "pip install 'CHECKOUT[kit]'": "tests/ours/test_kit_package.py",
    "llama-reference template > my_llama.py": "tests/ours/test_kit_package.py",
    "llama-reference check my_llama.py": "tests/ours/test_kit_package.py",
}
SHORTER = {
    "--steps 2000": "--overwrite --steps 2 --layers 1 --vocab-size 400 --device cpu",
    "--out tuned": "--steps 2 --device cpu --out tuned",
}


def furnish(folder: Path) -> None:
    """Puts into a folder what the README's reader has: out/ of a run, texts, an adapter, another checkpoint."""
    from docs.text import documents
    from llama_scratch.train import TrainConfig, train
    from tests.ours import checkpoint_writers

    with contextlib.chdir(folder):
        text = "".join(documents())[:200_000]
        Path("my_book.txt").write_text(text)
        Path("my.txt").write_text("The list")
        Path("letters.jsonl").write_text(json.dumps({"text": text[:20_000]}) + "\n")
        Path("my_notes").mkdir()
        Path("my_notes", "today.md").write_text("# Today\n")
        train(TrainConfig((Path("my_book.txt"),), steps=2, layers=1, vocab_size=400, hidden_size=32, device="cpu"))
        Path("my_adapter.py").write_text((ROOT / "tests" / "adapters" / "ours.py").read_text())
        checkpoint_writers.write_meta(Path("SRC"), *checkpoint_writers.made("GQA", vocab_size=102))


def shell_blocks(document: Document) -> Iterator[Region]:
    """Every shell block."""
    for match in BLOCK.finditer(document.text):
        yield Region(match.start(), match.end(), Lexeme(match["commands"], 0, line_offset=0), check)


def check(example: Example) -> str | None:
    """None, or which command fails."""
    for line in example.parsed.splitlines():
        command = line.partition("#")[0].strip()
        if command and command not in ELSEWHERE and (status := run(command)):
            return f"`{command}` ends with {status}"
    return None


def run(command: str) -> int | str | None:
    """The exit status; 0 or None is good. Modules run in this process, which saves their imports; `< FILE` is stdin."""
    for usual, short in SHORTER.items():
        command = command.replace(usual, short)
    command, _, given = command.partition(" < ")
    program, flag, *words = shlex.split(command)
    if program == KIT:
        return llama_reference.__main__.main([flag, *words])
    if (program, flag) != (PYTHON, "-m"):
        return "no way to run it: add one, or say in ELSEWHERE where it is run"
    with Path(given or os.devnull).open() as stdin, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: that it is imported already
        with mock.patch.object(sys, "argv", words), mock.patch.object(sys, "stdin", stdin):
            try:
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
            except SystemExit as end:
                return end.code
    return None
