"""What a person at a terminal meets: one line for a wrong command of any program; a paste; lines recalled."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import torch

from llama_reference.__main__ import main as judge
from llama_scratch import Llama, LlamaConfig, Tokenizer, convert, train
from llama_scratch.data import __main__ as data
from llama_scratch.generate import command as generate

PROGRAMS = {"train": train, "data": data, "generate": generate, "convert": convert}
WRONG = {
    "train": [
        (["--stesp", "5"], "--stesp is an unknown flag; did you mean --steps?"),
        (["--steps", "many"], "--steps is 'many', expected a whole number"),
        (["--learning-rate", "high"], "--learning-rate is 'high', expected a number"),
        (["--preset", "smal"], "--preset is 'smal', expected one of .*did you mean small"),
        (["--steps"], "--steps has no value"),
        (["book.txt"], "book.txt is one word too many"),
    ],
    "data": [
        (["--vocab-sise", "5"], "--vocab-sise is an unknown flag; did you mean --vocab-size?"),
        (["--vocab-size", "many"], "--vocab-size is 'many', expected a whole number"),
    ],
    "generate": [
        (["DIR", "--promt", "x"], "--promt is an unknown flag; did you mean --prompt?"),
        (["DIR", "--prompt", "x", "--top-k", "few"], "--top-k is 'few', expected"),
        ([], "PATH is missing: Directory with a checkpoint"),
    ],
    "convert": [
        (["SRC", "DST", "--dtpye", "float32"], "--dtpye is an unknown flag; did you mean --dtype?"),
        (["SRC"], "is missing"),
    ],
}
CASES = [(name, *case) for name, cases in WRONG.items() for case in cases]


@pytest.mark.parametrize(("program", "arguments", "reason"), CASES, ids=str)
def test_a_wrong_command_is_one_line_with_what_may_have_been_meant(program, arguments, reason, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as end:
        PROGRAMS[program].main()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert re.match(f"error: .*{reason}", line), line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["chek", "my.py"], "did you mean check"),
        (["check", "my.py", "--quik"], "did you mean --quick"),
        (["check", "absent.py"], "absent.py: no such file"),
        (["mistakes", "rmsnorm"], "rms_norm"),
    ],
    ids=str,
)
def test_a_wrong_command_of_the_kit_is_one_line_too(arguments, reason, capsys):
    try:
        status = judge(arguments)
    except SystemExit as end:
        status = end.code
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line.startswith("error: ")
    assert reason in line


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    Llama(LlamaConfig(290, 48, 64, 2, 4, initializer_range=0.3, max_position_embeddings=96)).save_pretrained(path)
    Tokenizer.train(["The cat sat on the mat.\n  The dog did not.\n\n" * 30], 290).save_pretrained(path)
    return path


class Terminal:
    """A program in a pseudo-terminal, as a person has it."""

    def __init__(self, *line: str) -> None:
        self.end, theirs = pty.openpty()
        self.process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def wait(self, holds, seconds: float = 120) -> None:
        """Read until something holds of the screen."""
        until = time.monotonic() + seconds
        while not holds(self.screen):
            assert time.monotonic() < until, self.screen
            if select.select([self.end], [], [], 1)[0]:
                self.screen += os.read(self.end, 4096).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)


@pytest.fixture
def terminal(directory):
    line = [sys.executable, "-m", "llama_scratch.generate", str(directory), "--interactive", "--max-new-tokens", "3"]
    opened = Terminal(*line, "--temperature", "0")
    opened.wait(lambda screen: "> " in screen)
    yield opened
    opened.close()


def answers(screen: str) -> int:
    return screen.count("tokens/s")


def test_a_paste_of_three_lines_is_one_prompt(terminal):
    terminal.type("The cat\nThe dog\nThe mat\n")
    terminal.wait(lambda screen: answers(screen) == 1 and screen.rstrip().endswith(">"))
    time.sleep(0.5)
    terminal.type("The end\n")
    terminal.wait(lambda screen: answers(screen) >= 2 and screen.rstrip().endswith(">"))
    assert answers(terminal.screen) == 2


def test_the_arrow_up_brings_the_last_prompt_back(terminal):
    terminal.type("The cat sat\n")
    terminal.wait(lambda screen: answers(screen) == 1 and screen.rstrip().endswith(">"))
    shown = len(terminal.screen)
    terminal.type("\x1b[A")
    terminal.wait(lambda screen: "The cat sat" in screen[shown:])


@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [*(f"llama_scratch.{name} --help" for name in ("train", "generate", "convert", "data")),
     "llama_reference --help", "llama_reference template", "llama_reference mistakes loss"],
)  # fmt: skip
def test_a_reader_that_has_gone_is_no_error(command):
    line = [sys.executable, "-m", *command.split()]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(line, env=usual, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
