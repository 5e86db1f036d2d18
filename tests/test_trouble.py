"""Trouble is told as what it is, and no component is blamed for it: twelve kinds, and runs that are cut short."""

import io
import json
import re
import subprocess
import sys
import time
import warnings
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import pytest

from llama_reference import __main__ as command
from llama_reference.adapter_loader import AdapterError, load
from llama_reference.report import notes, summary, terminal
from llama_reference.report.results import ANSWERS, Results
from llama_reference.standard.outcome import Outcome
from llama_reference.suite import plugin, survivor
from llama_reference.suite.plan import BEYOND_DOUBT, items, left_out
from llama_reference.suite.runner import Crew, Limits, Plan
from llama_reference.suite.session import Session
from llama_reference.suite.worker import load_and_build
from tests.profiles import among, is_thorough

pytest_plugins = "pytester"

RIGHT = """
from llama_reference.standard.stepwise import StepwiseLlama
right = StepwiseLlama()
build, parameters, rms_norm, swiglu = right.build, right.parameters, right.rms_norm, right.swiglu
"""
SWIGLU = RIGHT + "import torch, ctypes, os, time, warnings\ndef swiglu(handle, layer, x):\n    "
# kind -> what swiglu does instead of answering, and what is said of it
TROUBLE = {
    "missing compiler": (
        "raise RuntimeError('No working C++ compiler found in [None, \\'g++\\']')",
        r"swiglu: a compiler is missing or fails: RuntimeError: No working C\+\+ compiler",
    ),
    "missing package": (
        "import nobody_has_this",
        r"swiglu: a package is missing: ModuleNotFoundError: No module named",
    ),
    "wrong shape": (
        "return right.swiglu(handle, layer, x)[..., :7]",
        r"swiglu: .*the answer has the shape \(5, 48, 7\), expected \(5, 48, 72\)",
    ),
    "wrong dtype": (
        "return right.swiglu(handle, layer, x).long()",
        r"swiglu: .*the answer is of torch\.int64, expected torch\.float32",
    ),
    "no tensor": ("return right.swiglu(handle, layer, x).tolist()", r"swiglu answers with a list, expected a tensor"),
    "NaN": ("return right.swiglu(handle, layer, x) * float('nan')", r"swiglu: every answer is NaN"),
    "in-place edits": (
        "y = right.swiglu(handle, layer, x); x.data.add_(1); return y",
        r"swiglu writes into its argument x, which is the caller's",
    ),
    "another device": ("return right.swiglu(handle, layer, x).to('meta')", r"swiglu answers on the device meta"),
    "no such device": (
        "raise AssertionError('Torch not compiled with CUDA enabled')",
        r"swiglu: a device is missing, or tensors lie on another one: AssertionError: Torch not compiled",
    ),
    "random answers": ("return torch.randn_like(x)", r"swiglu: .*the same question gets another answer each time"),
}


@pytest.fixture
def adapter(tmp_path):
    """Called with the text of an adapter: its path."""

    def write(text):
        path = tmp_path / "my_llama.py"
        path.write_text(text)
        return path

    return write


def few(component: str):
    """The first item of each section."""
    return [next(group) for _, group in groupby(items(component), key=lambda item: item.section)]


def asked(path, *components: str) -> Results:
    session = Session(load(path), Results())
    for component in components:
        for item in few(component):
            session.ask(item)
    return session.results


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_is_told_and_nobody_is_blamed(kind, adapter):
    does, told = TROUBLE[kind]
    results = asked(adapter(SWIGLU + does), "swiglu", "rms_norm")
    assert summary.wrong(results) == []
    good, verdict = summary.verdict(results)
    assert not good
    assert re.match("1 of 10 components judged and right.*; trouble, and no verdict: swiglu", verdict)
    ((about, line),) = notes.on_trouble(results)
    assert about == Outcome.TROUBLE
    assert re.search(told, line)
    assert {trouble.section for trouble in results.troubles} == {"answers", "properties", "gradients"}
    assert results.diagnoses == {}
    assert re.search(r"\nswiglu +trouble +trouble +trouble +1 in trouble\n", terminal.table(results) + "\n")


def test_a_floating_dtype_of_its_own_is_a_remark(adapter):
    text = SWIGLU + "return right.swiglu(handle, layer, x).double()"
    results = asked(adapter(text), "swiglu")
    assert summary.verdict(results)[0]
    assert "remark: swiglu answers in torch.float64 instead of torch.float32" in terminal.table(results)


def test_what_is_wrong_by_a_known_mistake_is_no_trouble(adapter):
    """Dropout left on answers at random, too."""
    text = SWIGLU.replace("swiglu(", "nobody(") + "pass\nfrom llama_reference import mistakes\n"
    text += "wrong = {m.name: m for m in mistakes.of('attention')}['dropout_in_eval'].implementation\n"
    text += "globals().update({name: getattr(wrong, name) for name in ('build', 'attention', 'new_cache')})\n"
    session = Session(load(adapter(text)), Results())
    session.ask(next(items("attention")))
    assert summary.wrong(session.results) == ["attention"]
    assert session.results.diagnoses["attention"].named[0].title.startswith("looks like `dropout_in_eval`")


def test_warnings_of_an_adapter_end_nothing(adapter):
    """While it is imported and while it answers, under -W error."""
    warns = "warnings.warn('old', DeprecationWarning, stacklevel=1)"
    path = adapter(SWIGLU + f"{warns}; return right.swiglu(handle, layer, x)\n{warns}")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("error")
        assert summary.verdict(asked(path, "swiglu"))[0]


def test_pytest_ends_at_once_where_an_adapter_cannot_be_imported(adapter, pytestconfig):
    path = adapter("import nobody_has_this")
    config = SimpleNamespace(getoption=lambda name: path if name == "implementation" else pytestconfig.getoption(name))
    with pytest.raises(pytest.exit.Exception) as caught:
        plugin.pytest_configure(config)
    assert caught.value.returncode == 2
    told = (
        rf'^  File "{path}", line 1, in <module>\n    import nobody_has_this\nerror: --implementation: {path}: Module'
    )
    assert re.match(told, caught.value.msg)


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        ("x = 1\nimport nobody_has_this", "ModuleNotFoundError: No module named 'nobody_has_this'", "import nobody"),
        (RIGHT + "def build(*_):\n    assert 1 > 2, 'why'", "build raises AssertionError: why", "assert 1 > 2, 'why'"),
        (
            RIGHT + "def build(*_):\n    import none_of_us",
            "build: a package is missing: ModuleNotFoundErr",
            "import none",
        ),
    ],
)
def test_what_cannot_be_imported_or_built_is_told_by_its_own_frames(text, told, line, adapter):
    path = adapter(text)
    with pytest.raises(AdapterError, match=re.escape(told)) as caught:
        load_and_build(path)
    assert str(path) in str(caught.value)
    frames = caught.value.details
    assert line in frames
    assert re.findall(r'File "(.*?)"', frames) == [str(path)]


def test_a_model_that_builds_plain_configurations_only_is_asked(adapter):
    """What it refuses by an error is told where it is asked."""
    text = RIGHT + "def build(config, *rest):\n    assert not config['mlp_bias'], 'no biases'\n"
    path = adapter(text + "    return right.build(config, *rest)")
    load_and_build(path)
    results = asked(path, "swiglu")
    assert summary.wrong(results) == []
    assert "build raises AssertionError: no biases" in terminal.table(results)


@pytest.mark.processes
class TestProcesses:
    """What only a process of its own shows."""

    def test_a_crash_and_a_hang_end_one_component_and_the_rest_is_judged(self, adapter):
        text = SWIGLU + "ctypes.string_at(0)\ndef loss(logits, labels):\n    time.sleep(1000)\n"
        path, results = adapter(text), Results()
        crew = Crew(path, Plan(("swiglu", "rms_norm", "loss"), True, results), Limits(question=60), 3)
        try:
            crew.start()
            crew.limits = Limits(question=5)  # loading takes longer on a busy machine
            crew.work(lambda _: None)
        finally:
            crew.end()
        assert summary.wrong(results) == []
        assert summary.verdict(results)[1].endswith("trouble, and no verdict: swiglu, loss")
        said = dict(line.split(" (asked: ") for _, line in notes.on_trouble(results))
        crash = "the adapter's process ended (SIGSEGV), in swiglu (my_llama.py:7)"
        hang = "no answer within 5 s: it hangs or is slow, in loss (my_llama.py:9)"
        assert said == {
            crash: "swiglu answers: hard, torch.float32)",
            hang: "loss answers: hard, torch.float32)",
        }
        assert all(row.component == "rms_norm" for row in results.rows)
        assert results.unasked["swiglu"].keys() == {"trouble at a question before"}

    def test_a_crash_while_it_is_loaded_ends_the_run(self, adapter, capsys):
        path = adapter(SWIGLU + "pass\nos._exit(7)")
        assert command.main(["check", str(path)]) == 2
        assert capsys.readouterr().err == f"error: {path}: the process ended while it was loaded (exit code 7)\n"

    @pytest.mark.parametrize("how", ["--time-limit 1", "Ctrl-C"])
    def test_a_run_cut_short_has_a_verdict_so_far(self, how, adapter):
        path = adapter(SWIGLU + "time.sleep(1000)\ndef loss(*_):\n    time.sleep(1000)\n")
        results = Results()
        crew = Crew(path, Plan(("rms_norm", "loss"), True, results), Limits(run=1), 2)

        def after_each(_):
            crew.deadline = time.monotonic()
            if how == "Ctrl-C":
                raise KeyboardInterrupt

        try:
            crew.start()
            crew.deadline = float("inf")  # after_each says when the time is up
            crew.work(after_each)
        finally:
            crew.end()
        good, verdict = summary.verdict(results)
        assert not good
        assert re.search(rf"1 of 10 components judged and right.*; so far: stopped by {how}$", verdict)
        assert len(results.unasked["loss"][how]) == len([*items("loss", True)])


GOOD = SWIGLU + "return right.swiglu(handle, layer, x)\n"
ALONE = "^1 of 10 components judged and right[^;]*"
# kind -> an adapter, what the command says, and its exit status
KINDS = {
    kind: (SWIGLU + does, rf"{ALONE}; trouble, and no verdict: swiglu.* trouble: {told}", 2)
    for kind, (does, told) in TROUBLE.items()
    if kind not in ("missing package", "no tensor", "no such device")
} | {
    "import warning": (GOOD + "warnings.warn('old', DeprecationWarning)", "^2 of 10 components judged and right", 0),
    "import error": ("import nobody_has_this", r"import nobody_has_this error: \S+my_llama.py: ModuleNotFoundError", 2),
    "assertion in build": (
        RIGHT + "def build(*_):\n    assert 1 > 2, 'why'",
        r"assert 1 > 2, 'why'.* error: \S+my_llama.py: build raises AssertionError: why",
        2,
    ),
    "crash": (
        SWIGLU + "ctypes.string_at(0)",
        rf"{ALONE}; trouble, and no verdict: swiglu.* trouble: the adapter's process ended \(SIGSEGV\), in swiglu",
        2,
    ),
    "hang": (
        SWIGLU + "time.sleep(1000)",
        f"{ALONE}; trouble, and no verdict: swiglu.* trouble: no answer within 45 s: it hangs or is slow, in swiglu",
        2,
    ),
}


@pytest.mark.processes
@pytest.mark.parametrize("kind", among(KINDS, ("assertion in build", "crash")))
def test_the_command_tells_each_kind_as_what_it_is(kind, adapter):
    text, told, status = KINDS[kind]
    command = [str(Path(sys.executable).with_name("llama-reference")), "check", str(adapter(text)), "--quick"]
    options = ["--component", "swiglu", "rms_norm", "--question-limit", "45"]  # loading takes long on a busy machine
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600)
    said = " ".join((done.stdout + done.stderr).split())
    assert re.search(told, said), said
    assert done.returncode == status
    assert "WRONG" not in said
    assert "looks like" not in said


def test_the_command_is_asked_about_twelve_kinds():
    assert len(KINDS) == 12


def test_once_a_component_is_wrong_beyond_doubt_its_questions_are_sampled(adapter):
    path = adapter(SWIGLU + "return 2 * right.swiglu(handle, layer, x)")
    session = Session(load(path), Results())
    every = [*items("swiglu")]
    for item in every:
        session.ask(item)
    results = session.results
    ((why, questions),) = results.unasked["swiglu"].items()
    assert why == f"{BEYOND_DOUBT} after 18 answers"
    assert 0.6 * len(every) < len(questions) < 0.9 * len(every)
    assert f"not asked: swiglu: {len(questions)} questions: {why}" in terminal.table(results)
    assert {row.section for row in results.rows} == {"answers", "gradients"}
    assert summary.wrong(results) == ["swiglu"]


def test_doubt_asks_on():
    """Eleven wrong answers, or any number that are off by little."""
    results, item = Results(), [*items("swiglu")][1]
    for error, count in ((99.0, 11), (7.0, 50)):
        for _ in range(count):
            results.rows.append(
                summary.Row("swiglu", ANSWERS, "hard", "float32", "x", False, False, error, oracle_error=1.0)
            )
    assert left_out(item, results) == ""
    results.rows.append(results.rows[0])
    assert left_out(item, results) == f"{BEYOND_DOUBT} after 12 answers"


@pytest.mark.parametrize("place", ["adapters", "."])
def test_an_adapter_may_import_what_stands_next_to_it_and_where_the_command_is_run(place, tmp_path, monkeypatch):
    (tmp_path / "adapters").mkdir()
    (tmp_path / place / "somebodys_llama.py").write_text("def build(config, state, dtype):\n    return state\n")
    path = tmp_path / "adapters" / "my_llama.py"
    path.write_text("from somebodys_llama import build\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "somebodys_llama", raising=False)
    assert load(path).build({}, "a state", None) == "a state"


class TestPytest:
    """The same by pytest --implementation, with the suite in somebody's own project."""

    @pytest.fixture
    def suite(self, pytester, monkeypatch):
        """Called with the text of an adapter and options: the exit status and what was said."""
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
        pytester.makeini("[pytest]\nfilterwarnings = error\n")
        pytester.makeconftest("from llama_reference.suite.fixtures import *")
        declared = "from llama_reference.suite.declare import declared\nglobals().update(declared('swiglu'))"

        def run(text, *options):
            path = pytester.makepyfile(my_llama=text)
            _ = pytester.makepyfile(test_swiglu=declared)
            done = pytester.runpytest_inprocess("--implementation", str(path), "-n0", "-q", *options)
            return done.ret, " ".join(done.stdout.str().split())

        return run

    @pytest.mark.parametrize("ends", ["by a crash", "as it should"])
    def test_what_was_found_out_is_told_by_another_process_after_a_crash(self, ends, monkeypatch, capsys):
        found = Results({"judged": "by budget"}, properties={"loss": {"a claim": Outcome.HOLDS}})
        messages = [{"asks": "tests/test_loss.py::a"}, {"found": found.values()}, {"asks": "tests/test_swiglu.py::b"}]
        messages += [{"done": True}] if ends == "as it should" else []
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(message) + "\n" for message in messages)))
        survivor.main()
        said = " ".join(capsys.readouterr().out.split())
        crash = "trouble: the process ended while it was asked this (asked: tests/test_swiglu.py::b)"
        assert (crash in said) == (ends == "by a crash")
        assert ("1 of 10 components judged and right" in said) == (ends == "by a crash")

    @pytest.mark.processes
    @pytest.mark.skipif(not is_thorough(), reason="a process of its own: in the thorough profile")
    @pytest.mark.parametrize("processes", ["-n0", "-n2"])
    def test_a_crash_leaves_a_verdict_so_far(self, processes, pytester):
        pytester.makeconftest("from llama_reference.suite.fixtures import *")
        pytester.makepyfile(
            my_llama=SWIGLU + "os._exit(3)",
            test_rms_norm="from llama_reference.suite.declare import declared\nglobals().update(declared('rms_norm'))",
            test_swiglu="from llama_reference.suite.declare import declared\nglobals().update(declared('swiglu'))",
        )
        pytester.runpytest_subprocess("--implementation", "my_llama.py", processes, "-k", "within and hard")
        for _ in range(600):  # the other process may speak after the first has ended
            said = " ".join((pytester.path / "stdout").read_text().split())
            if "trouble: " in said:
                break
            time.sleep(0.1)
        assert re.search("1 of 10 components judged and right.*; trouble, and no verdict: swiglu", said)
        assert re.search(r"trouble: the process ended.* \(asked: test_swiglu.py::TestAnswers::", said)

    def test_trouble_fails_and_is_told(self, suite):
        status, said = suite(SWIGLU + TROUBLE["NaN"][0], "-k", "hard and float32 or linear")
        assert status == pytest.ExitCode.TESTS_FAILED
        assert "trouble, and no verdict: swiglu" in said
        assert " trouble: swiglu: every answer is NaN (asked: " in said

    def test_a_hang_is_ended_and_told(self, suite):
        status, said = suite(SWIGLU + "time.sleep(1000)", "--question-limit", "0.5")
        assert status == pytest.ExitCode.TESTS_FAILED
        assert re.search(r"trouble: no answer within 0.5 s: it hangs or is slow, in swiglu \(line \d+\)", said)
        assert "questions: trouble at a question before" in said

    @pytest.mark.processes
    def test_answers_are_counted_once_however_many_processes_ask(self, pytester):
        pytester.makeconftest("from llama_reference.suite.fixtures import *")
        pytester.makepyfile(
            my_llama=RIGHT,
            test_rms_norm="from llama_reference.suite.declare import declared\nglobals().update(declared('rms_norm'))",
        )
        options = ("--implementation", "my_llama.py", "-k", "within and hard")
        one = pytester.runpytest_inprocess(*options, "-n0").stdout.str()
        two = pytester.runpytest_subprocess(*options, "-n2").stdout.str()
        counted = re.search(r"1 of 10 components judged and right, \d+ answers", one)
        assert counted
        assert counted[0] in two

    def test_a_run_out_of_time_has_not_passed(self, suite):
        status, said = suite(RIGHT, "--time-limit", "0")
        assert status == pytest.ExitCode.INTERRUPTED
        assert re.search(r"not asked: swiglu: \d+ questions: --time-limit 0", said)
