"""The book: every topic has its chapter, every chapter its parts, every figure is what the code draws now, and every
formula has a twin that can fail. That the code blocks run is asked block by block: docs/examples.py, docs/commands.py.
"""

import base64
import importlib
import io
import pkgutil
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from sybil import Document

from docs import drawing, examples
from docs.commands import ELSEWHERE, shell_blocks
from docs.drawing import views
from reference import mistakes
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
    "training": ["windows", "schedule", "loss"],
    "sampling": ["temperature", "top-k", "top-p", "min-p", "repetition penalty"],
    "how_we_know": ["### Tiers", "### Budgets", "### Mistakes", "kill matrix", "## What a green test does not prove"],
    "speed": ["bytes", "operations", "roofline"],
    "scaling": ["6·P·n"],
    "loss": ["cross entropy", "shifted by one", "-100"],
    "generate": ["cache", "left", "stop token"],
}
DRAWN = ["cosine_encoding", "rotation", "decay", "attention_patterns", "causal", "head_map", "cache_growth",
         "cost_of_a_token", "loss_curve", "kill_matrix", "error_by_layer"]  # fmt: skip
PARTS = ["## The idea", "## The formula", "## The code", "## Run it", "## Exercises", "## What goes wrong"]
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
    lacking = {"how_we_know": PARTS[1:3], "scaling": PARTS[2:3], "tokenizer": PARTS[1:2]}
    assert [part for part in PARTS if f"\n{part}\n" not in page] == lacking.get(name, [])
    assert re.search(r"^!\[.{20,}\]\(figures/\w+\.svg\)$", page, re.MULTILINE), "no figure with a description"
    assert len(re.findall(r"^\*\*\d\.\*\* ", page, re.MULTILINE)) == 3
    answers = re.findall(r"<details><summary>Answer</summary>\n\n(.*?)</details>", page, re.DOTALL)
    assert len(answers) == 3
    assert sum("```python" in answer for answer in answers) >= 2
    if name in mistakes.COMPONENTS:
        assert f"```{{mistakes}} {name}\n" in page
        assert re.search(rf"literalinclude}} \.\./src/llama_scratch/{name}(/\w+)?\.py", page)


def test_every_link_inside_the_project_leads_somewhere():
    broken, found = [], 0
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            found += 1
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
    assert found > 30


def test_every_figure_is_drawn_and_shown():
    shown = {name for page in PAGES for name in re.findall(r"\(\S*?figures/(\w+)\.svg\)", page.read_text())}
    assert {path.stem for path in drawing.FIGURES.glob("*.svg")} == drawing.ALL.keys() == shown
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
    kept, now = numbers(drawing.FIGURES / f"{name}.svg"), numbers(tmp_path / "now.svg")
    assert len(kept) == len(now), "draw it again: python -m docs.drawing"
    assert np.abs(kept - now).max() < PEN, "draw it again: python -m docs.drawing"
    for before, after in zip(*map(pictures, (drawing.FIGURES / f"{name}.svg", tmp_path / "now.svg")), strict=True):
        assert np.abs(before - after).mean() < SHADE, "draw it again: python -m docs.drawing"


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
    stated = importlib.import_module(f"llama_scratch.{name}").__doc__ or ""
    assert formula in (text(name) if name == "generate" else stated)
    assert text(name).count(meant) == 1
    page = tmp_path / f"{name}.md"
    page.write_text(text(name).replace(meant, broken))
    assert len(failures(page)) == 1


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
