"""`llama-reference check` and `pytest --implementation` find out the same about the same adapter."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from llama_reference import mistakes
from llama_reference.report import terminal
from llama_reference.report.results import Results
from tests.profiles import is_thorough

ROOT = Path(__file__).parent.parent
QUICK = ("rms_norm", "swiglu", "loss")  # components that are judged in a second or two
KNOWN = [known for name in mistakes.COMPONENTS for known in mistakes.of(name) if is_thorough() or name in QUICK]
SAMPLE = random.Random(17).sample(KNOWN, 30 if is_thorough() else 2)
ADAPTER = """
from llama_reference import mistakes

(wrong,) = (known.implementation for known in mistakes.of({component!r}) if known.name == {name!r})
globals().update({{name: getattr(wrong, name) for name in dir(wrong) if not name.startswith("_")}})
"""


def run(module: str, *arguments: str) -> int:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.run(line, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600).returncode


def both(adapter: Path, component: str, folder: Path) -> list[tuple[int, Results]]:
    """Exit status and Results of either command."""
    values, report = folder / "check.json", folder / "report"
    status = run("llama_reference", "check", str(adapter), "--component", component, "--json", str(values))
    named = ("--implementation", str(adapter), "--report", str(report))
    tests = run("pytest", "-q", "-n0", "-p", "no:cacheprovider", *named, f"tests/test_{component}.py")
    return [(status, terminal.read(values)), (tests, terminal.read(report / "report.json"))]


def must_agree(adapter: Path, component: str, folder: Path) -> None:
    (status, checked), (tests, tested) = both(adapter, component, folder)
    assert status == tests == 1
    assert checked.about == tested.about
    assert Counter(checked.rows) == Counter(tested.rows)
    assert checked.rows
    assert checked.properties == tested.properties
    assert checked.diagnoses == tested.diagnoses
    kinds = [Counter((trouble.kind, trouble.component) for trouble in found.troubles) for found in (checked, tested)]
    assert kinds[0] == kinds[1]


def test_the_norm_of_the_readme(tmp_path):
    must_agree(ROOT / "docs" / "my_norm.py", "rms_norm", tmp_path)


@pytest.mark.parametrize("known", SAMPLE, ids=lambda known: f"{known.component}-{known.name}")
def test_a_known_mistake(tmp_path, known):
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER.format(component=known.component, name=known.name))
    must_agree(adapter, known.component, tmp_path)
