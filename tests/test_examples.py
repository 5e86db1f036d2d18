"""The Llamas of examples/, in several languages, judged like strangers: right as they are, and named when mistaken.

Each is skipped where its compiler is not installed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_reference.exchange.export import export
from llama_reference.exchange.files import FileAnswers
from llama_reference.report.results import ANSWERS, Results
from llama_reference.standard.profile import FULL
from llama_reference.suite.plan import Item, answer_cases
from llama_reference.suite.session import Session
from tests.profiles import among

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parent.parent / "examples"
COMPONENTS = ("rms_norm", "rotary", "swiglu")
SECONDS = 20
PROGRAMS = {  # the file -> what makes a program `run` of it, and how it is run; {} is the file
    "llama.c": ("cc -O2 -o run {} -lm", "./run"),
    "llama.rs": ("rustc --edition 2021 -O -o run {}", "./run"),
    "llama.go": ("go build -o run {}", "./run"),
    "llama.js": ("", "node {}"),
    "llama.py": ("", f"{sys.executable} {{}}"),
}
# file -> component -> what is written instead of what, and its name
PLANTED = {
    "llama.c": {
        "rms_norm": ("sqrt(sum / D + number", "(sqrt(sum / D) + number", "eps_outside_the_root"),
        "rotary": ("a * c - b * s", "a * c + b * s", "no_sign"),
        "swiglu": ("phi(gate.at[i]) * up.at[i]", "phi(up.at[i]) * gate.at[i]", "gate_and_up_swapped"),
    },
    "llama.rs": {
        "rms_norm": ("*g as f64 * *v", "(1.0 + *g as f64) * *v", "one_plus_gain"),
        "rotary": ("plain * (kept + (1.0 - kept) / factor)", "plain / factor + 0.0 * kept", "llama3_everywhere"),
        "swiglu": ("unwrap() * u as f64", "unwrap() + u as f64", "added_instead_of_multiplied"),
    },
    "llama.go": {
        "rms_norm": ("sum/float64(d)+m.", "sum+m.", "sum_instead_of_mean"),
        "rotary": ("-2*float64(i)/h", "-float64(i)/h", "exponent_without_2"),
        "swiglu": ('linear(m, at+"up_proj", x)', 'linear(m, at+"gate_proj", x)', "up_is_gate"),
    },
    "llama.js": {
        "rms_norm": ("model.config.rms_norm_eps", "1e-6", "eps_fixed_at_1e-6"),
        "rotary": ("return plain / factor", "return plain * factor", "linear_multiplies"),
        "swiglu": ("bias ? bias.at[o] : 0", "0", "biases_dropped"),
    },
    "llama.py": {
        "rms_norm": ("np.mean(x * x, -1, keepdims=True)", "np.mean(x * x, 1, keepdims=True)", "over_the_positions"),
        "rotary": ("stretched = np.clip((i - first)", "stretched = 1 - np.clip((i - first)", "yarn_ramp_inverted"),
        "swiglu": ("phi(gate) * up", "phi(gate * up)", "activated_after_the_product"),
    },
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "here"
    threads = torch.get_num_threads()
    cases = [(name, variant, dtype) for name in COMPONENTS for variant, dtype in answer_cases(name)]
    export(folder, [case for case in cases if case[2] == torch.float32], FULL, "npy", truth=False)
    torch.set_num_threads(threads)
    return folder


class Runner:
    """A program of an example, and a folder of questions that it answers."""

    def __init__(self, name: str, text: str, questions: Path, folder: Path) -> None:
        self.folder = folder
        for path in questions.iterdir():
            (folder / path.name).symlink_to(path)
        source = folder / name
        source.write_text(text)
        make, run = PROGRAMS[name]
        for line in filter(None, (make, run)):
            tool = line.split()[0]
            if tool != "./run" and not shutil.which(tool):
                pytest.skip(f"needs {tool}, which is not installed")
        if make:
            subprocess.run(make.format(source).split(), cwd=folder, check=True, capture_output=True,
                           env={**os.environ, "GO111MODULE": "off", "GOCACHE": str(folder / "cache")})  # fmt: skip
        self.line = run.format(source).split()

    def answer(self, components=COMPONENTS) -> None:
        """Answer all of the questions, from one process."""
        found = json.loads((self.folder / "manifest.json").read_text())["questions"]
        lines = [f"{q['request']} {q['folder']}\n" for q in found if q["component"] in components]
        done = subprocess.run(
            self.line, cwd=self.folder, input="".join(lines), capture_output=True, text=True, timeout=SECONDS
        )
        assert done.stdout.splitlines() == ["done"] * len(lines), done.stderr

    def judged(self, component: str) -> Session:
        session = Session(FileAnswers(self.folder), Results(), driven=True)
        for variant, dtype in answer_cases(component):
            if dtype == torch.float32:
                session.ask(Item(component, ANSWERS, variant, dtype))
        return session


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_right(name, questions, tmp_path):
    runner = Runner(name, (EXAMPLES / name).read_text(), questions, tmp_path)
    runner.answer()
    for component in COMPONENTS:
        rows = runner.judged(component).results.rows
        assert len(rows) > 30
        assert [row for row in rows if not row.within] == []


ONE_EACH = ("llama.c rms_norm", "llama.rs rotary", "llama.go swiglu", "llama.js swiglu", "llama.py rotary")


@pytest.mark.parametrize(
    ("name", "component"), among([(name, part) for name in PLANTED for part in PLANTED[name]], ONE_EACH, " ".join)
)
def test_a_mistake_in_an_example_is_caught_and_named(name, component, questions, tmp_path):
    right, wrong, mistake = PLANTED[name][component]
    text = (EXAMPLES / name).read_text()
    assert text.count(right) == 1
    runner = Runner(name, text.replace(right, wrong), questions, tmp_path)
    runner.answer([component])
    session = runner.judged(component)
    assert any(not row.within for row in session.results.rows)
    assert f"looks like `{mistake}`" in session.diagnose(component).lines()[0]


def test_reading_and_writing_takes_few_lines():
    """Of the lines that are not the mathematics."""
    for name in PROGRAMS:
        around = (EXAMPLES / name).read_text().partition("the questions: lines of words")[2]
        assert 0 < len(around.strip().splitlines()) <= 120
