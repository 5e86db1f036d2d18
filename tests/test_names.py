"""The rules of the house that a machine can see."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from llama_reference.mistakes import COMPONENTS
from llama_reference.standard import oracle
from llama_reference.standard.cases import Case

ROOT = Path(__file__).parent.parent
PACKAGE, REFERENCE = ROOT / "src" / "llama_scratch", ROOT / "reference" / "llama_reference"
# From the ground up. A room imports rooms of lower floors only; rooms of one floor do not know each other.
FLOORS = [
    "errors",
    "command_line dtypes torch_private",
    "model",
    "checkpoint",
    "tokenizer fast",
    "generate convert",
    "data",
    "training",
    "train",
]
REFERENCE_FLOORS = [
    "implementation command_line",
    "standard adapter_loader conventions",
    "mistakes questions",
    "checkpoints",
    "judge",
    "report exchange",
    "suite",
    "check verify against catalogue export",
    "verify_layers",
    "commands",
    "__main__",
]
README = ROOT / "README.md"
LETTERS = {"D": "hidden_size", "F": "intermediate_size", "V": "vocab_size", "N": "num_attention_heads",
           "G": "num_key_value_heads", "H": "head_dim"}  # fmt: skip
SOURCE = {"sampling": "generate/sampling.py", "generate": "generate/__init__.py", "kv_cache": "model/kv_cache.py"}
MODEL = ["config", "rms_norm", "rotary", "attention", "swiglu", "block", "kv_cache", "llama", "loss"]
SOURCES = [
    path
    for folder in ("src", "reference", "tests", "benchmarks", "docs", "examples")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_found_everywhere_by_its_name(name):
    places = [
        PACKAGE / SOURCE.get(name, f"model/{name}.py"),
        *(REFERENCE / "questions" / room / f"{name}.py" for room in ("checks", "properties")),
        REFERENCE / "mistakes" / f"{name}.py",
        ROOT / "tests" / f"test_{name}.py",
    ]
    if name != "kv_cache":  # transformers' cache and its formula are parts of attention's
        places.append(REFERENCE / "standard" / "oracle" / f"{name}.py")
    if name not in ("kv_cache", "generate"):  # the formula of generating is the formula of the model
        places.append(REFERENCE / "standard" / "formula" / f"{name}.py")
    assert [str(place) for place in places if not place.is_file()] == []


def test_the_model_is_read_in_one_sitting():
    files = [(PACKAGE / "model" / f"{name}.py").read_text() for name in MODEL]
    assert sum(text.count("\n") for text in files) <= 600
    assert sum(map(count_too_dense, (PACKAGE / "model").glob("*.py"))) == 0
    functions = [node for text in files for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 30
    assert max(node.end_lineno - node.lineno + 1 for node in functions) <= 40


def count_too_dense(path: Path) -> int:
    """Lines that are wider than 100 columns, or kept from the formatter."""
    return sum(len(line) > 100 or "fmt:" in line for line in path.read_text().splitlines())


def test_a_line_that_is_too_dense_is_seen(tmp_path):
    path = tmp_path / "dense.py"
    path.write_text("a = 1\n" + "b" * 101 + "\n" + "c" * 100 + "\nd = [1,2]  # fmt: skip\n")
    assert count_too_dense(path) == 2


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file. A package's face (__init__.py) only hands names on, and stands on no floor."""
    files = [path for path in package.rglob("*.py") if path.name != "__init__.py" and "templates" not in path.parts]
    return {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in files}


def arrows(package: Path) -> set[tuple[str, str]]:
    """Pairs (importing, imported) of a package's modules; imports for type checkers count."""
    known = modules(package)
    faces = {".".join(path.parent.relative_to(package.parent).parts): path for path in package.rglob("__init__.py")}
    found = set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [each if each in known or each in faces else node.module or "" for each in inner]
            else:
                continue
            found |= {(name, target) for target in targets if target in known or target in faces}
    return found


def room(module: str) -> str:
    """The folder or file right under the package."""
    return module.split(".")[1] if "." in module else ""


def runs_up(package: Path, floors: list[str]) -> list[str]:
    """Every arrow from a room to one that stands on its own floor or above."""
    level = {name: number for number, line in enumerate(floors) for name in line.split()}
    missing = {room(name) for name in modules(package)} - level.keys()
    assert missing == set(), "a room that stands on no floor"
    between = {(a, b) for a, b in arrows(package) if room(b) and room(a) != room(b)}
    return sorted(f"{a} imports {b}" for a, b in between if level[room(a)] <= level[room(b)])


@pytest.mark.parametrize(
    ("package", "floors"), [(PACKAGE, FLOORS), (REFERENCE, REFERENCE_FLOORS)], ids=["src", "reference"]
)
def test_arrows_run_down_only(package, floors):
    assert runs_up(package, floors) == []


@pytest.mark.parametrize("package", [PACKAGE, REFERENCE], ids=["src", "reference"])
def test_no_files_import_each_other_in_a_circle(package):
    graph = TopologicalSorter()
    known = modules(package)
    for importing, imported in arrows(package):
        if imported in known:
            graph.add(importing, imported)
    graph.prepare()  # raises CycleError, which names the circle


def test_an_arrow_that_runs_up_is_seen(tmp_path):
    for name, text in {"a/one": "from house.b import two", "b/two": "if True:\n    from house.a import one"}.items():
        path = tmp_path / "house" / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert runs_up(tmp_path / "house", ["a", "b"]) == ["house.a.one imports house.b.two"]


def test_the_reference_does_not_know_what_it_judges():
    files = list((ROOT / "reference").rglob("*.py"))
    assert len(files) > 10
    assert [str(path) for path in files if any(name.startswith("llama_scratch") for name in imports(path))] == []


def test_questions_go_through_the_adapter():
    files = [*(ROOT / "tests").glob("*.py")]
    assert len(files) >= len(COMPONENTS)
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
        assert (PACKAGE / "model" / file).is_file()
        axes = [[letters[letter] for letter in axis.split("·")] for axis in shape.strip().split(", ")]
        stated[key] = tuple(axis[0] * axis[1] if len(axis) == 2 else axis[0] for axis in axes)
    handle = oracle.build(case.config, case.state, case.dtype)
    found = {re.sub(r"layers\.\d+", "layers.{l}", key): tuple(w.shape) for key, w in handle.state_dict().items()}
    assert stated == found


def test_the_tree_in_the_readme_is_the_tree():
    tree = README.read_text().split("## Where everything is")[1].split("```")[1]
    listed = set(re.findall(r"(\w+\.py)", tree))
    package = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert package <= listed
    present = {path.name for path in SOURCES} | {"NAME.py", "test_NAME.py", "bench_NAME.py", "my_adapter.py"}
    assert listed <= present
