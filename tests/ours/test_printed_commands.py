"""Every command that README, book, CONTRIBUTING and the programs print starts as printed, in a shell, in a checkout.

Long ones get words behind them: what follows shortens a run or lists what it would do, and a command that does not
start fails all the same. docs/commands.py runs the blocks of the book for what they do.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

import llama_scratch
from docs import commands

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEMPLATE = ROOT / "reference" / "llama_reference" / "templates" / "adapter.py"
OF_THE_CHECKOUT = [*ROOT.glob("docs/**/*.py"), *ROOT.glob("benchmarks/*.py"), TEMPLATE]
INSTALLED = [*ROOT.glob("reference/**/*.py"), *ROOT.glob("src/**/*.py")]  # wherever it is: its environment is active
STARTS = r"(?:\.venv/bin/\w|make [a-z]|pytest |python -m |llama-reference [a-z])"
# what stands for something of the reader's
NAMED = {
    "docs/NAME.md": "docs/rms_norm.md", '"NAME"': "rms_norm", "FIGURE": "decay", "SRC DST": "SRC DST2",
    "path/to/your_adapter.py": "my_adapter.py", "verify DIR ADAPTER.py": "verify out my_adapter.py",
    "KIND PATH": "--help", "COMMAND": "template",
}  # fmt: skip
# behind a command: what makes it short
SHORTENED = {
    r"make ": " --dry-run",  # minutes each; CI runs make test, lint and docs
    r"pip ": " --help",  # test_kit_package.py builds and installs it
    r"\S*llama-reference template": "",
    r"\S*llama-reference check": " --help",  # the same test runs it: a minute, and other statuses than 0
    r"\S*pytest": " --collect-only -q -n0",  # minutes each; what they find is other tests' affair
    r".*llama_scratch\.train .*--data": " --steps 2 --device cpu",
    # minutes each, some rewrite the book, and one is called by a program only: `startable` asks for the module
    r".*(docs|benchmarks|fast\.compiler)": None,
    # DIR and the like stand for something of the reader's
    r"(python -m llama_(scratch|reference)( COMMAND)?|llama-reference)": " --help",
}


def in_pages(pages: list[Path] = PAGES) -> set[str]:
    found = set()
    for page in pages:
        text = page.read_text()
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found |= {line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()}
        found |= set(re.findall(rf"`({STARTS}[^`\n]*)`", text))
    return found - {""}


def in_code(files: list[Path]) -> set[str]:
    """Those that a docstring or a message quotes, or has on a line of its own."""
    text = "\n".join(path.read_text() for path in files)
    quoted = re.findall(rf"`({STARTS}[^`\n]*)`", text)
    alone = re.findall(rf"^    ({STARTS}[^\n\"`]*)$", text, re.MULTILINE)
    return {command for command in [*quoted, *alone] if "{" not in command}


def test_there_are_commands():
    assert ".venv/bin/pytest --implementation my_adapter.py" in in_pages()
    assert len(in_pages()) > 25
    assert len(in_code(OF_THE_CHECKOUT)) > 5
    assert len(in_code(INSTALLED)) > 5


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout, with what a reader has after `make train` in it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("src", "reference", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    commands.furnish(copy)
    return copy


def shortened(command: str) -> str:
    for placeholder, meant in NAMED.items():
        command = command.replace(placeholder, meant)
    command = re.sub(r" (\.\.\.|\[.*\])(?= |$)", "", command)
    behind = next((more for start, more in SHORTENED.items() if re.match(start, command)), "")
    return startable(command) if behind is None else command + behind


def startable(command: str) -> str:
    """A command that only looks for the module which the other would run, by the same program."""
    program, module = re.match(r"(\S+) -m (\S+)", command).groups()
    return f"{program} -c 'import sys, torch, importlib.util; sys.exit(not importlib.util.find_spec(\"{module}\"))'"


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    usual["PYTHONPATH"] = str(Path(llama_scratch.__file__).parents[1])
    line = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(
        line, cwd=folder, env=usual | variables, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )


def failed(command: str, folder: Path, **variables: str) -> str | None:
    """None, or what a command that does not end well says."""
    if command.startswith(
        ("pip ", "pytest ", "llama-reference ")
    ):  # said to be for the environment of the reader's Llama
        variables["PATH"] = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    if command.startswith("chromium"):  # a browser is not required
        return None
    done = run(shortened(command), folder, **variables)
    return f"{command}\n  {(done.stderr or done.stdout)[-400:]}" if done.returncode else None


def program(command: str) -> str:
    """What a command starts: its first word, and the module after -m or the sub-command."""
    words = command.split()
    more = words[1:3] if words[1:2] == ["-m"] else words[1:2] if words[0].endswith("llama-reference") else []
    return " ".join([words[0], *more])


def is_thorough() -> bool:
    return hypothesis.settings.get_current_profile_name() == "thorough"


def chosen(found: set[str]) -> list[str]:
    """Every command in the thorough profile; else the longest of each program, since each takes seconds to start.
    In the order of the pages: one leaves what the next needs.
    """
    if not is_thorough():
        programs = {program(command) for command in found}
        found = {max((c for c in found if program(c) == name), key=lambda c: (len(c), c)) for name in programs}
    return sorted(found, key=lambda command: ("--resume" in command, "--init-from" in command, command))


class TestPages:
    def test_every_command_starts_as_printed(self, checkout):
        found = chosen(in_pages(PAGES if is_thorough() else PAGES[:1]))
        assert [said for command in found if (said := failed(command, checkout))] == []


@pytest.mark.skipif("not is_thorough()", reason="some minutes: in the thorough profile")
class TestCode:
    def test_every_command_of_the_checkouts_docstrings_starts_as_printed(self, checkout):
        found = chosen(in_code(OF_THE_CHECKOUT))
        assert [said for command in found if (said := failed(command, checkout))] == []


@pytest.mark.skipif("not is_thorough()", reason="some minutes: in the thorough profile")
class TestInstalled:
    def test_every_command_starts_as_printed(self, checkout):
        active = f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}"
        found = chosen(in_code(INSTALLED))
        assert [said for command in found if (said := failed(command, checkout, PATH=active))] == []
