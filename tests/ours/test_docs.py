"""The book: every topic has its chapter, every chapter its parts, every figure is what the code draws now, and every
formula has a twin that can fail. That the code blocks run is asked block by block: docs/examples.py, docs/commands.py.
"""

import ast
import base64
import importlib
import io
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from sybil import Document

from benchmarks import plots
from docs import drawing, examples
from docs.commands import ELSEWHERE, shell_blocks
from docs.drawing import views
from llama_reference import mistakes
from tests.profiles import among

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
CHAPTERS = {
    "what_a_llama_is": "What a Llama is", "rms_norm": "RMSNorm", "rotary": "Rotary embeddings",
    "attention": "Attention",
    "swiglu": "SwiGLU", "block": "The block",
    "llama": "The model", "loss": "The loss", "kv_cache": "The KV cache",
    "tokenizer": "The tokenizer", "training": "Training", "sampling": "Sampling", "generate": "Generating",
    "how_we_know": "How we know it is right", "speed": "How fast it can be", "scaling": "Scaling",
}  # fmt: skip
# what each chapter is to speak of
TOPICS = {
    "what_a_llama_is": ["decoder-only", "teacher forcing", "shifted by one", "cross entropy"],
    "rms_norm": ["LayerNorm", "rescaling", "centring"],
    "rotary": [
        "sines and cosines",
        "inner product",
        "difference (p − r)",
        "linear",
        "NTK",
        "yarn",
        "llama3",
        "longrope",
    ],
    "attention": [
        "similarity",
        "**Scale.**",
        "**Mask.**",
        "**Heads.**",
        "Multi-query",
        "grouped",
        "multi-head",
        "cache",
    ],
    "swiglu": ["ReLU", "GELU", "Swish(xW + b)", "bias-free", "mlp_bias"],
    "block": ["pre-norm", "residual stream"],
    "llama": ["How many parameters", "Llama 2 7B", "Llama 3.1 405B"],
    "kv_cache": ["bytes a token", "flat", "Prefill and decode"],
    "tokenizer": ["Byte-pair encoding", "byte fallback"],
    "training": ["sequences", "schedule", "loss"],
    "sampling": ["temperature", "top-k", "top-p", "min-p", "repetition penalty"],
    "how_we_know": ["### Tiers", "### Budgets", "### Mistakes", "kill matrix", "## What a green test does not prove"],
    "speed": ["bytes", "operations", "roofline", "## Measured"],
    "scaling": ["6·P·n"],
    "loss": ["cross entropy", "shifted by one", "-100"],
    "generate": ["cache", "left", "stop token"],
}
DRAWN = ["cosine_encoding", "rotation", "decay", "attention_patterns", "causal", "head_map", "cache_growth",
         "cost_of_a_token", "loss_curve", "kill_matrix", "error_by_layer"]  # fmt: skip
PARTS = ["## The idea", "## The formula", "## The code", "## Run it", "## Exercises", "## What goes wrong"]
MEASURED = {"measured_cost_by_length", "measured_beside_transformers"}  # drawn from a run of the benchmarks
PEN, SHADE = 0.5, 0.002  # points, and colours on the average: what no eye sees in a figure
UNSEEN = {
    "tied_by_copy",
    "logits_in_float32",
    "one_at_least",
    "draws_too",
    "writes_into_the_mask",
}  # in no number of an answer
QUICK = ("rms_norm", "rotary", "attention", "swiglu", "block", "loss", "sampling")

for module in pkgutil.iter_modules(drawing.__path__, "docs.drawing."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_topic_has_its_heading(name):
    assert text(name).startswith(f"# {CHAPTERS[name]}\n")
    assert re.search(rf"^{name}$", text("index"), re.MULTILINE), f"the table of contents lacks {name}"
    words = " ".join(text(name).split()).lower()
    assert [topic for topic in TOPICS[name] if topic.lower() not in words] == []


def test_every_component_has_a_chapter_under_its_name():
    assert set(mistakes.COMPONENTS) <= CHAPTERS.keys()


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_all_its_parts(name):
    page = text(name)
    parts = [part for part in PARTS if (name, part) != ("scaling", "## The code")]  # it has none of its own
    assert [part for part in parts if f"\n{part}\n" not in page] == []
    assert re.search(r"^!\[.{20,}\]\(figures/\w+\.svg\)$", page, re.MULTILINE), "no figure with a description"
    assert len(re.findall(r"^\*\*\d\.\*\* ", page, re.MULTILINE)) == 3
    answers = re.findall(r"<details><summary>Answer</summary>\n\n(.*?)</details>", page, re.DOTALL)
    assert len(answers) == 3
    assert [answer for answer in answers if "```python" not in answer] == []
    if name in mistakes.COMPONENTS:
        assert f"```{{mistakes}} {name}\n" in page
        assert re.search(rf"literalinclude}} \.\./src/llama_scratch/(\w+/)?{name}(/\w+)?\.py", page)


def test_every_link_inside_the_project_leads_somewhere():
    broken, found = [], 0
    for page in PAGES:
        for target, _, heading in re.findall(r"\]\((?!https?://)([^)#]+)(#([^)]*))?\)", page.read_text()):
            found += 1
            to = page.parent / target
            if not to.exists() or (heading and heading not in headings(to.read_text())):
                broken.append(f"{page.name}: {target}#{heading}")
    assert broken == []
    assert found > 30


def headings(page: str) -> set[str]:
    """As links call them."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_figure_is_drawn_and_shown():
    shown = {name for page in PAGES for name in re.findall(r"\(\S*?figures/(\w+)\.svg\)", page.read_text())}
    assert {path.stem for path in drawing.FIGURES.glob("*.svg")} == drawing.ALL.keys() | MEASURED == shown
    assert [name for name in DRAWN if name not in shown] == []


def numbers(svg: Path) -> np.ndarray:
    """Every coordinate of a drawing, without the pictures in it, ids and colours."""
    drawn = re.sub(
        r'(id|xlink:href|href|clip-path|style)="[^"]*"|<metadata>.*?</metadata>', "", svg.read_text(), flags=re.S
    )
    return np.array([float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", drawn)])


def words(svg: Path) -> list[str]:
    """Titles, labels and ticks."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text())


def pictures(svg: Path) -> list[np.ndarray]:
    """The heat maps in a drawing, as colours from 0 to 1."""
    found = re.findall(r'href="data:image/png;base64,([^"]*)"', svg.read_text())
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(png))) for png in found]


@pytest.mark.parametrize("name", [name for name, (_, _, slow) in drawing.ALL.items() if not slow])
def test_a_figure_is_what_the_code_draws_now(name, tmp_path):
    drawing.draw(name, tmp_path / "now.svg")
    assert words(drawing.FIGURES / f"{name}.svg") == words(tmp_path / "now.svg"), "draw it again"
    kept = numbers(drawing.FIGURES / f"{name}.svg")
    now = numbers(tmp_path / "now.svg")
    assert len(kept) == len(now), "draw it again: python -m docs.drawing"
    assert np.abs(kept - now).max() < PEN, "draw it again: python -m docs.drawing"
    for before, after in zip(*map(pictures, (drawing.FIGURES / f"{name}.svg", tmp_path / "now.svg")), strict=True):
        assert np.abs(before - after).mean() < SHADE, "draw it again: python -m docs.drawing"


def test_the_kill_matrix_is_of_these_mistakes():
    """Its totals only are compared: to draw it again takes a minute."""
    cells = words(drawing.FIGURES / "kill_matrix.svg")[4 + len(mistakes.COMPONENTS) :]
    totals = [int(cell.split(" of ")[1]) for cell in cells[::4]]  # every row begins with a number
    assert totals == [len(mistakes.of(name)) for name in mistakes.COMPONENTS], "python -m docs.drawing kill_matrix"


@pytest.mark.parametrize("name", among(mistakes.COMPONENTS, QUICK))
def test_every_mistake_has_a_picture(name):
    assert {m.name for m in mistakes.of(name) if views.picture(m) is None} <= UNSEEN


# NAME: the formula as it stands in the file, and a change that breaks the twin in the chapter
TWINS = {
    "rms_norm": ("y_i = g_i · x_i / √( (1/D) Σ_j x_j² + ε )", "/ len(row) + eps", "+ eps"),
    "rotary": ("q'_i       = q_i cos(p θ_i) − q_{i+H/2} sin(p θ_i)", "exp(1j", "exp(-1j"),
    "attention": ("softmax( Q Kᵀ / √H + M ) V", "/ sqrt(H)", ""),
    "swiglu": ("y = W_down ( φ(W_gate x) ⊙ W_up x ),    φ = SiLU: z · σ(z)", "z / (1 + exp(-z))", "1 / (1 + exp(-z))"),
    "block": ("h = x + Attention(RMSNorm₁(x))\n    y = h + SwiGLU(RMSNorm₂(h))", "twin = h +", "twin = x +"),
    "llama": ("x_l = Block_l(x_{l−1}),    logits = W_head RMSNorm(x_L)", "model.model.norm(x)", "x"),
    "loss": ("− (1/n) Σ_t log softmax(logits_t)[label_{t+1}]", "labels[0, t + 1]", "labels[0, t]"),
    "kv_cache": ("bytes = 2 · L · B · G · S · H · bytes per number", "print(2 * L", "print(L"),
    "sampling": ("z_i ← z_i / τ;", "x**2 for", "x for"),
    "generate": ("x_{T+1} ~ softmax(logits_T)", ".argmax(-1)", ".argmin(-1)"),
}


@pytest.mark.parametrize("name", mistakes.COMPONENTS)
def test_a_formula_has_a_twin_that_fails_when_it_is_broken(name, tmp_path):
    """Whoever changes a formula's text changes it here, and the twin in the chapter that is run beside the code."""
    formula, meant, broken = TWINS[name]
    package = {"sampling": "generate.", "generate": ""}.get(name, "model.")
    stated = importlib.import_module(f"llama_scratch.{package}{name}").__doc__ or ""
    assert formula in (text(name) if name == "generate" else stated)
    assert text(name).count(meant) == 1
    page = tmp_path / f"{name}.md"
    page.write_text(text(name).replace(meant, broken))
    assert len(failures(page)) == 1


@pytest.mark.processes
def test_the_readme_shows_what_the_suite_says_of_a_norm_with_a_mistake():
    """The example is docs/my_norm.py, and the text below it is what its command prints, but for last digits."""
    readme = (ROOT / "README.md").read_text()
    assert f"```python\n{(DOCS / 'my_norm.py').read_text()}```\n" in readme
    assert (DOCS / "my_norm.py").read_text().count("\n") <= 30
    assert "\n.venv/bin/llama-reference check docs/my_norm.py --component rms_norm  # prints:\n" in readme
    stated = re.findall(r"^```text\n(WRONG: rms_norm\n.*?)```", readme, re.MULTILINE | re.DOTALL)
    assert len(stated) == 2
    line = [sys.executable, "-m", "llama_reference", "check", "docs/my_norm.py", "--component", "rms_norm"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    for text in stated:
        assert without_digits(text) in without_digits(done.stdout)


def without_digits(said: str) -> str:
    """Errors in ulps, which another processor rounds otherwise."""
    return re.sub(r"[\d.e]+ ulp|(?<=transformers )[\d.]+", "#", said)


# a run of the benchmarks, as far as pictures and table need it
RUN = {
    "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}, "system": "Linux"},
    "datetime": "2026-01-31T01:02",
    "benchmarks": [
        {"name": "test_decode[24M float32]", "extra_info": {
            "torch": "2.13.0+cpu", "label": "24M float32", "batch": 4,
            "seconds_a_step": {"textbook": 0.04, "transformers": 0.02, "fast": 0.008},
            "share_of_roofline": {"textbook": 0.1, "transformers": 0.2, "fast": 1.38}}},
        {"name": "test_cost_by_length", "extra_info": {
            "lengths": [32, 1000], "seconds": {name: [0.001, 0.002] for name in plots.NAMES},
            "predicted": {"cached": [0.001, 0.001], "uncached": [0.001, 0.1]}}},
    ],
}  # fmt: skip


def test_a_run_of_the_benchmarks_becomes_the_pictures_and_the_table_of_the_book(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{plots.BEGIN}\nold\n{plots.END}\nafter\n")
    plots.main(tmp_path / "run.json", tmp_path, page)
    assert {path.stem for path in tmp_path.glob("*.svg")} == MEASURED
    assert "| 24M float32 | 100 | 200 | 500 | 2.50 |\n\n*(A CPU, 2 cores, Linux; torch 2.13.0; 2026-01-31)*" in (
        page.read_text()
    )
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="to stand in it once, found 0"):
        plots.main(tmp_path / "run.json", tmp_path, page)


def test_the_speed_chapter_has_the_published_medians_and_where_they_are_from(tmp_path):
    """With their range, and no share of what a machine allows: it cannot be more, and memory's speed changes."""
    chapter, page = text("speed"), tmp_path / "speed.md"
    page.write_text(chapter)
    plots.main(ROOT / "benchmarks" / "published.json", tmp_path, page)
    assert page.read_text() == chapter
    for svg in (tmp_path, drawing.FIGURES):
        assert "5.9 (5.8 to 6.1)" in words(svg / "measured_beside_transformers.svg")
    measured = chapter.split(plots.BEGIN)[1].split(plots.END)[0]
    assert "%" not in measured
    assert re.search(r"^\*\(.+, \d+ cores, \w+; torch [\d.]+; .+\)\*$", measured, re.MULTILINE)


def test_everything_in_the_reference_has_a_docstring_that_names_its_errors():
    """Its own, or that of the class it belongs to: what calling a module does is told by the module's."""
    silent, found = [], 0
    for name, members in re.findall(r"automodule:: (\S+)\n   :members:(.*)", text("api")):
        module = importlib.import_module(name)
        everything = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for public in members.replace(",", "").split() or everything:
            made = getattr(module, public)
            source = sys.modules.get(getattr(made, "__module__", ""))
            if source and source.__name__.startswith(name) and hasattr(made, "__qualname__"):
                found += 1
                silent += lacking(source, made.__qualname__)
    assert silent == []
    assert found > 50


def lacking(module, name: str) -> list[str]:
    """What of a class or function says nothing, or nothing of what it raises."""
    (node,) = (x for x in ast.parse(Path(module.__file__).read_text()).body if getattr(x, "name", None) == name)
    whole, missing = ast.get_docstring(node) or "", []
    for part in (node, *(x for x in node.body if isinstance(node, ast.ClassDef) and isinstance(x, ast.FunctionDef))):
        said = ast.get_docstring(part) or ""
        hidden = part.name.startswith("_")
        asked = isinstance(part, ast.FunctionDef) and (not hidden or part.name in ("__init__", "__post_init__"))
        raises = asked and any(isinstance(x, ast.Raise) for x in ast.walk(part))
        if (not said and not hidden and part.name != "forward") or (raises and "Raises" not in said + whole):
            missing.append(f"{module.__name__}.{name}: {part.name}")
    return missing


def failures(page: Path) -> list[str]:
    """What the check says of the blocks of a page."""
    said = [examples.check(example) for example in Document.parse(str(page), examples.blocks).examples()]
    return [message for message in said if message]


def test_a_block_that_prints_something_else_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```output\n3\n```\n\n```python\nprint(5)\n```\n")
    document = Document.parse(str(page), examples.blocks)
    assert [examples.check(example) for example in document.examples()] == [
        "it prints\n2\nand the page says\n3\n",
        "it prints\n5\nand the page says\nnothing",
    ]


def test_a_command_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```sh\nmake test\n.venv/bin/python -m llama_scratch.convert nothing here\n```\n")
    (example,) = Document.parse(str(page), shell_blocks).examples()
    assert "convert nothing here` ends with error" in example.region.evaluator(example)
    page.write_text("```sh\nrm x\n```\n")
    (example,) = Document.parse(str(page), shell_blocks).examples()
    assert "no way to run it" in example.region.evaluator(example)


def test_what_is_run_elsewhere_is_a_target_of_make():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = {command.split()[1] for command in ELSEWHERE if command.startswith("make ")}
    assert made <= set(targets)
    assert {"test", "lint", "docs"} <= set(re.findall(r"\bmake (\w+)", (ROOT / ".ci" / "run").read_text()))
