"""The rules of the house that a machine can see."""

import ast
import re
from pathlib import Path

import pytest

from llama_reference.mistakes import COMPONENTS
from llama_reference.standard import oracle
from llama_reference.standard.cases import Case

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LETTERS = {"D": "hidden_size", "F": "intermediate_size", "V": "vocab_size", "N": "num_attention_heads",
           "G": "num_key_value_heads", "H": "head_dim"}  # fmt: skip
NAMES = ["rms_norm", "rotary", "attention", "swiglu", "block", "llama", "loss", "sampling", "generate"]
MODEL = ["config", "rms_norm", "rotary", "attention", "swiglu", "block", "kv_cache", "llama", "loss"]
SOURCES = [
    path for folder in ("src", "reference", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_found_everywhere_by_its_name(name):
    source = "src/llama_scratch/{}/__init__.py" if name == "generate" else "src/llama_scratch/{}.py"
    places = [source, "reference/llama_reference/standard/oracle/{}.py", "tests/test_{}.py"]
    if name != "generate":  # the formula of generating is the formula of the model
        places.append("reference/llama_reference/standard/formula/{}.py")
    assert [place for place in places if not (ROOT / place.format(name)).is_file()] == []


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_asked_doubted_and_tested_under_its_name(name):
    places = [f"reference/{room}/{name}.py" for room in ("checks", "properties", "mistakes")] + [
        f"tests/test_{name}.py"
    ]
    assert [place for place in places if not (ROOT / place).is_file()] == []


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


def test_the_name_table_is_the_state_dict():
    """Symbol, key and shape in the README are those of transformers' model."""
    case = Case("no biases")
    letters = {letter: case.config[name] for letter, name in LETTERS.items()}
    rows = re.findall(r"^\| \S+ \| `([^`]+)` \| `[^`]+` \| ([^|]+) \| (\w+\.py) \|$", README.read_text(), re.MULTILINE)
    stated = {}
    for key, shape, file in rows:
        assert (ROOT / "src" / "llama_scratch" / file).is_file()
        axes = [[letters[letter] for letter in axis.split("·")] for axis in shape.strip().split(", ")]
        stated[key] = tuple(axis[0] * axis[1] if len(axis) == 2 else axis[0] for axis in axes)
    handle = oracle.build(case.config, case.state, case.dtype)
    found = {re.sub(r"layers\.\d+", "layers.{l}", key): tuple(w.shape) for key, w in handle.state_dict().items()}
    assert stated == found


def test_the_tree_in_the_readme_is_the_tree():
    tree = README.read_text().split("## Where everything is")[1].split("```")[1]
    listed = set(re.findall(r"(\w+\.py)", tree))
    package = {path.name for path in (ROOT / "src" / "llama_scratch").glob("*.py")} - {"__init__.py"}
    assert package <= listed
    present = {path.name for path in SOURCES} | {"NAME.py", "test_NAME.py", "bench_NAME.py", "my_adapter.py"}
    assert listed <= present
