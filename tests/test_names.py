"""The rules of the house that a machine can see."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ["rms_norm", "rotary", "attention", "swiglu", "block", "llama", "loss", "generate"]
MODEL = ["config", "rms_norm", "rotary", "attention", "swiglu", "block", "kv_cache", "llama", "loss"]
SOURCES = [path for folder in ("src", "reference", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_found_everywhere_by_its_name(name):
    places = ["src/llama_scratch/{}.py", "reference/oracle/{}.py", "tests/test_{}.py"]
    if name != "generate":  # the formula of generating is the formula of the model
        places.append("reference/formula/{}.py")
    assert [place for place in places if not (ROOT / place.format(name)).is_file()] == []


def test_the_model_is_read_in_one_sitting():
    files = [(ROOT / "src" / "llama_scratch" / f"{name}.py").read_text() for name in MODEL]
    assert sum(text.count("\n") for text in files) <= 500
    functions = [node for text in files for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 30
    assert max(node.end_lineno - node.lineno + 1 for node in functions) <= 40


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_the_reference_does_not_know_what_it_judges():
    files = list((ROOT / "reference").rglob("*.py"))
    assert len(files) > 10
    assert [str(path) for path in files if any(name.startswith("llama_scratch") for name in imports(path))] == []


def test_questions_go_through_the_adapter():
    files = [*(ROOT / "tests").glob("*.py")]
    assert len(files) >= len(NAMES)
    assert [str(path) for path in files if any(name.startswith("llama_scratch") for name in imports(path))] == []


def test_tolerances_stand_in_the_budget_only():
    """No literal tolerance elsewhere: neither as an argument, nor by the defaults of assert_close and allclose."""
    literal = re.compile(r"\b(atol|rtol|abs|rel)\s*=\s*[\d.]|assert_close|allclose")
    others = [path for path in SOURCES if path.name not in ("budget.py", "test_names.py")]
    assert [str(path) for path in others if literal.search(path.read_text())] == []
