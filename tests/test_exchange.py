"""Questions as files, answers as files: the same verdicts, and whatever else comes back is told as what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llama_reference import __main__ as command
from llama_reference import export as exporting
from llama_reference import mistakes
from llama_reference.command_line import UsageError
from llama_reference.exchange import arrays, server
from llama_reference.exchange.export import export
from llama_reference.exchange.files import FileAnswers
from llama_reference.exchange.program import Program, ProgramAnswers
from llama_reference.report import notes
from llama_reference.report.results import ANSWERS, Results
from llama_reference.standard.cases import Case
from llama_reference.standard.outcome import Outcome
from llama_reference.standard.profile import FULL
from llama_reference.standard.stepwise import StepwiseLlama
from llama_reference.suite.plan import Item
from llama_reference.suite.session import Session
from tests.profiles import among

ROOT = Path(__file__).parent.parent
PARTS = ("rms_norm", "rotary", "swiglu", "loss")
HARD = [("hard", torch.float32), ("hard", torch.bfloat16)]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The hard questions about small components, with what is right."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("questions") / "here"
    export(folder, [(name, *case) for name in PARTS for case in HARD], FULL, "npy", truth=True)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def folder(written, tmp_path, monkeypatch) -> Path:
    """A folder of its own, to stand in, with the questions in it."""
    for path in written.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def questions(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["questions"]


def answer(folder: Path, adapter: object, components=PARTS) -> None:
    for question in questions(folder):
        if question["component"] in components:
            server.Server(adapter).answer(question["request"], question["folder"])


def judged(adapter: object, component: str, cases=HARD) -> Session:
    session = Session(adapter, Results(), driven=True)
    for variant, dtype in cases:
        session.ask(Item(component, ANSWERS, variant, dtype))
    return session


def told(session: Session) -> str:
    return "; ".join(trouble.message for trouble in session.results.troubles)


@pytest.mark.parametrize("component", PARTS)
def test_answers_in_files_have_the_verdicts_of_answers_in_process(folder, component):
    """To the bit: no number is lost on its way, whatever the dtype."""
    known = [known for known in mistakes.of(component) if "rounded" not in known.name][3].implementation
    for adapter in (StepwiseLlama(), known):
        answer(folder, adapter, [component])
        files, direct = judged(FileAnswers(folder), component), judged(adapter, component)
        assert files.results.rows == direct.results.rows
        assert len(files.results.rows) > 0


def test_a_mistake_in_files_is_named(folder):
    known = next(m for m in mistakes.of("rms_norm") if m.name == "eps_outside_the_root")
    answer(folder, known.implementation, ["rms_norm"])
    found = judged(FileAnswers(folder), "rms_norm").diagnose("rms_norm")
    assert "`eps_outside_the_root` (these are its bits)" in found.lines()[0]


def test_what_is_not_answered_is_not_offered(folder):
    assert {t.kind for t in judged(FileAnswers(folder), "swiglu").results.troubles} == {Outcome.NOT_OFFERED}
    answer(folder, StepwiseLlama(), ["swiglu"])
    half = next(q for q in questions(folder) if (q["component"], q["dtype"]) == ("swiglu", "bfloat16"))
    (folder / half["answers"][4]["file"]).unlink()
    session = judged(FileAnswers(folder), "swiglu")
    assert [t.kind for t in session.results.troubles] == [Outcome.NOT_OFFERED]
    assert len(session.results.rows) == 9


BAD = {
    "shape": (np.zeros((5, 48, 7), np.float32), r"4.npy: rms_norm has the shape (5, 48, 7), expected (5, 48, 72)"),
    "NaN": (np.full((5, 48, 72), np.nan, np.float32), "4.npy: rms_norm is NaN everywhere"),
    "object": (np.array([{}]), "4.npy: not an array in a .npy file"),
    "text": (None, "4.npy: not an array in a .npy file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_told_by_its_name_and_costs_no_other_question(folder, kind):
    answer(folder, StepwiseLlama(), ["rms_norm"])
    array, expected = BAD[kind]
    path = folder / "answers/rms_norm/hard.float32/4.npy"
    path.write_text("no array") if array is None else np.save(path, array)
    session = judged(FileAnswers(folder), "rms_norm")
    assert expected in told(session)
    assert [t.kind for t in session.results.troubles] == [Outcome.TROUBLE]
    assert len(notes.on_trouble(session.results)) == 1
    assert len(session.results.rows) == 21  # those in bfloat16


def test_another_dtype_that_holds_the_same_numbers_is_as_good(folder):
    answer(folder, StepwiseLlama(), ["rms_norm"])
    for path in folder.glob("answers/rms_norm/*/*.npy"):
        np.save(path, np.load(path).astype(np.float64))
    assert all(row.bitwise for row in judged(FileAnswers(folder), "rms_norm").results.rows)


def test_files_of_questions_and_truth_are_the_same_bytes_when_made_again(folder, tmp_path_factory):
    again = tmp_path_factory.mktemp("again") / "here"
    export(again, [(name, *case) for name in PARTS for case in HARD], FULL, "npy", truth=True)
    paths = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(paths) > 40
    assert [str(path) for path in paths if (again / path).read_bytes() != (folder / path).read_bytes()] == []


def test_the_schema_describes_the_manifest(folder):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((folder / "manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads((folder / "manifest.json").read_text())
    jsonschema.validate(found, schema)
    found["questions"][0]["answers"][0]["shape"] = ["many"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


def test_files_alone_tell_right_from_wrong(folder):
    """examples/judge.py needs NumPy and the folder, nothing else."""
    line = [sys.executable, str(ROOT / "examples" / "judge.py"), "."]
    answer(folder, StepwiseLlama())
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "78 answers, 0 wrong")
    wrong = next(m for m in mistakes.of("rotary") if m.name == "no_sign")
    answer(folder, wrong.implementation, ["rotary"])
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert "answers/rotary/hard.float32/0.npy: rotary: query, first positions: off by" in done.stdout


def test_why_names_known_mistakes_of_questions_that_there_are():
    found = json.loads((Path(exporting.__file__).parent / "exchange" / "why.json").read_text())
    for question, names in found.items():
        component = question.partition("/")[0]
        assert set(names) <= {known.name for known in mistakes.of(component)}
    assert sum(map(len, found.values())) >= 250


def test_a_feature_that_is_lacking_is_asked_by_nobody(tmp_path):
    profile = exporting.without(("attention_bias", "mlp_bias", "padding", "rope_type llama3"))
    export(
        tmp_path,
        [("attention", "hard", torch.float32), ("attention", "no biases", torch.float32)],
        profile,
        "npy",
        False,
    )
    (asked,) = questions(tmp_path)
    text = (tmp_path / asked["request"]).read_text()
    assert "bias " not in text.replace("_bias false", "")
    assert "rope_type yarn" in text
    assert "mask=none" in text
    assert "mask=data" not in text
    with pytest.raises(UsageError, match=r"'paddin' is no feature.*did you mean padding"):
        exporting.without(("paddin",))


def test_one_format_is_as_good_as_the_other(tmp_path, monkeypatch):
    export(tmp_path, [("swiglu", *HARD[1])], FULL, "safetensors", False)
    monkeypatch.chdir(tmp_path)
    answer(tmp_path, StepwiseLlama())
    rows = judged(FileAnswers(tmp_path), "swiglu", HARD[1:]).results.rows
    assert all(row.bitwise for row in rows)
    assert len(rows) == 9


def test_a_folder_without_questions_and_one_that_is_not_empty_are_refused(tmp_path, capsys):
    assert command.main(["grade", str(tmp_path)]) == 2
    assert f"{tmp_path}: no manifest.json in it" in capsys.readouterr().err
    (tmp_path / "mine").write_text("")
    assert command.main(["export", str(tmp_path)]) == 2
    assert "something is there already" in capsys.readouterr().err


# programs

REPLIES = {  # kind -> the body of a program that has the request's lines and the folder, what is said of it
    "hangs": ("time.sleep(60)", "rms_norm: no answer within 0.5 s"),
    "crashes": ("print('no such\\nweight', file=sys.stderr); sys.exit(3)", "ended (exit code 3): no such weight"),
    "is killed": ("os.kill(os.getpid(), 9)", "ended (signal 9), and wrote nothing to standard error"),
    "rubbish": ("open(out + '/answer.npy', 'w').write('rubbish')", "wrote what is no array"),
    "wrong shape": ("save((5, 48, 7))", "the answer has the shape (5, 48, 7), expected (5, 48, 72)"),
    "NaN": ("save((5, 48, 72), b'\\0\\0\\xc0\\x7f')", "rms_norm: every answer is NaN"),
}
PROGRAM = """
import os, sys, time
def save(shape, one=b"\\0\\0\\0\\0"):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\\n"
    size = shape[0] * shape[1] * shape[2]
    open(out + "/answer.npy", "wb").write(b"\\x93NUMPY\\x01\\0v\\0" + header.encode() + one * size)
def reply(request, out):
    globals()["out"] = out
    if "model float32" not in open(request).read():
        return
    BODY
if len(sys.argv) > 1:
    reply(*sys.argv[1:])
else:
    for line in sys.stdin:
        reply(*line.split())
        print("done", flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("how", ["{request} {answer}", ""])
@pytest.mark.parametrize("kind", among(REPLIES, ("hangs", "crashes", "wrong shape")))
def test_a_program_that_does_not_answer_is_told_in_one_line(tmp_path, kind, how):
    body, expected = REPLIES[kind]
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("BODY", body))
    program = ProgramAnswers(Program(f"{sys.executable} -S {path} {how}", 0.5, tmp_path))
    session = judged(program, "rms_norm")
    (line,) = notes.on_trouble(session.results)
    assert expected in line[1]
    assert {t.kind for t in session.results.troubles} == {Outcome.TROUBLE, Outcome.NOT_OFFERED}


@pytest.mark.processes
def test_a_program_that_is_not_there_is_told(tmp_path):
    session = judged(ProgramAnswers(Program("./nobody {request}", 5, tmp_path)), "rms_norm")
    assert "./nobody: cannot be started: No such file or directory" in told(session)


@pytest.mark.processes
def test_a_program_that_does_not_answer_one_component_loses_no_other(tmp_path):
    """The other one is an adapter in a process of its own, to the bit as good as here, caches included."""
    path = tmp_path / "adapter.py"
    path.write_text(
        "from llama_reference.standard.stepwise import StepwiseLlama as L\nimport os\nright = L()\n"
        "build, attention, new_cache, llama = right.build, right.attention, right.new_cache, right.llama\n"
        "def swiglu(*_): os.abort()\n"
    )
    line = f"{sys.executable} {Path(server.__file__)} {path}"
    program = ProgramAnswers(Program(line, 60, tmp_path))
    assert "signal 6" in told(judged(program, "swiglu"))
    rows = judged(program, "attention", HARD[:1]).results.rows
    assert rows == judged(StepwiseLlama(), "attention", HARD[:1]).results.rows
    assert len(rows) == 8


@pytest.mark.processes
def test_ours_answers_where_the_kit_cannot_be_imported_and_has_the_same_verdicts(folder):
    """server.py is copied, as into another environment; `check` and `grade` then say the same, test by test."""
    (folder / "server.py").write_text(Path(server.__file__).read_text())
    ours = ROOT / "tests" / "adapters" / "ours.py"
    adapter = ours.read_text().replace(
        "from llama_reference.implementation import Config, State", "Config = State = dict"
    )
    (folder / "adapter.py").write_text(
        f"import sys\nsys.modules['llama_reference'] = None\nsys.path.insert(0, {str(ROOT / 'src')!r})\n"
        + adapter.replace("from __future__ import annotations\n", "")
    )
    lines = "".join(f"{q['request']} {q['folder']}\n" for q in questions(folder))
    done = subprocess.run(
        [sys.executable, "server.py", "adapter.py"], input=lines, capture_output=True, text=True, env={**os.environ}
    )
    assert done.stdout.splitlines() == ["done"] * len(questions(folder)), done.stderr
    from tests.adapters import ours as here

    for component in PARTS:
        rows = judged(FileAnswers(folder), component).results.rows
        assert rows == judged(here, component).results.rows
        assert all(row.bitwise for row in rows)


def test_a_tensor_in_a_file_comes_back_as_it_was(tmp_path):
    case = Case(dtype=torch.bfloat16)
    for ending in arrays.FORMATS:
        x = case.hidden().detach()
        arrays.write(tmp_path / f"x.{ending}", x)
        assert torch.equal(arrays.narrowed(arrays.read(tmp_path / f"x.{ending}"), x.dtype), x)
    unrounded = torch.tensor([1 + 2.0**-20])
    assert arrays.narrowed(unrounded, torch.bfloat16) is unrounded
