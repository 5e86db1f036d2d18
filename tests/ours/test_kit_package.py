"""The kit as somebody else gets it: a wheel, installed where this checkout cannot be imported, judging adapters."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
MEGABYTES = 3
NEEDS_HATCHLING = "needs hatchling, which pip cannot get here"

BUILD = """
    return config["rms_norm_eps"], {name: tensor.to(dtype) for name, tensor in state.items()}
"""
RIGHT = """
    eps, tensors = handle
    wide = x.float()
    return tensors[where + ".weight"] * (wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)
"""
WRONG = RIGHT.replace("keepdim=True) + eps)", "keepdim=True))")
THEIR_TEST = """
from llama_reference.suite.declare import parametrize_with_checks

@parametrize_with_checks("{adapter}", components=("rms_norm",), quick=True)
def test_my_llama(check):
    check()
"""


class Elsewhere:
    """An environment with the installed wheel and this one's other packages, and a folder to stand in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        (self.folder / "pytest.ini").write_text("[pytest]\n")  # or pytest looks for one in the folders above
        self.environment = folder / "env"
        self._binaries = self.environment / "bin"

    def install(self, wheel: Path) -> None:
        """Install the wheel alone; then let the packages of this environment be found.

        A line in a .pth file is a folder to look in, whose own .pth files are not read: the link to the checkout that
        an editable installation leaves there does nothing.
        """
        venv.create(self.environment, symlinks=True)
        python = self._binaries / "python"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*pip, str(wheel)], check=True, env=_plain(), capture_output=True, text=True)
        (packages,) = self.environment.glob("lib/python*/site-packages")
        (packages / "the_others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, pytest as a module since its script belongs to another environment."""
        line = [str(self._binaries / "python"), "-m", "pytest", "-p", "no:cacheprovider"]
        line = line if program == "pytest" else [str(self._binaries / program)]
        return subprocess.run(
            [*line, *arguments],
            cwd=self.folder,
            env=_plain(),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path


def _plain() -> dict[str, str]:
    """The environment variables without what leads to the checkout or belongs to this run of pytest."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYT")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    line = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(line, env=_plain(), capture_output=True, text=True)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip(NEEDS_HATCHLING)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    place = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    place.install(wheel)
    return place


@pytest.fixture(scope="module")
def template(elsewhere: Elsewhere) -> str:
    done = elsewhere.run("llama-reference", "template")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def filled_in(template: str, **bodies: str) -> str:
    """The template with the body of each function of that name in place of its NotImplementedError."""
    for name, body in bodies.items():
        pattern = rf"(?ms)^(def {name}\(.*?)^    raise NotImplementedError\n"
        template, count = re.subn(pattern, lambda match, body=body: match[1] + body[1:], template, count=1)
        assert count == 1
    return template


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= MEGABYTES * 2**20


def test_the_checkout_cannot_be_imported(elsewhere):
    program = (
        "import json, sys, llama_reference as r, llama_scratch as s\n"
        "print(json.dumps([sys.path, r.__file__, s.__file__]))"
    )
    done = elsewhere.run("python", "-c", program)
    path, *files = json.loads(done.stdout)
    assert {str(ROOT), str(ROOT / "src"), str(ROOT / "reference")}.isdisjoint(path)
    assert [file for file in files if not Path(file).is_relative_to(elsewhere.environment)] == []
    assert "No module named" in elsewhere.run("python", "-c", "import tests.adapters.ours").stderr


def test_a_norm_filled_into_the_template_is_right(elsewhere, template):
    elsewhere.write("my.py", filled_in(template, build=BUILD, rms_norm=RIGHT))
    done = elsewhere.run("llama-reference", "check", "my.py", "--component", "rms_norm")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 of 10 components judged and right, 189 answers: transformers' bits\n")
    assert "\nnot offered: parameters (rms_norm)\n" in done.stdout


def test_a_wrong_one_is_named(elsewhere, template):
    elsewhere.write("wrong.py", filled_in(template, build=BUILD, rms_norm=WRONG))
    done = elsewhere.run("llama-reference", "check", "wrong.py", "--component", "rms_norm", "--quick")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("WRONG: rms_norm\n")
    assert "looks like `" in done.stdout


def test_a_whole_adapter_of_the_wheels_own_model_is_right(elsewhere):
    elsewhere.write("whole.py", (ROOT / "tests" / "adapters" / "ours.py").read_text())
    components = ("rms_norm", "swiglu", "loss", "generate")
    done = elsewhere.run("llama-reference", "check", "whole.py", "--quick", "--component", *components)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 of 10 components judged and right")


@pytest.mark.parametrize("with_the_template", [True, False])
def test_an_adapter_that_offers_nothing_is_not_right(elsewhere, template, with_the_template):
    elsewhere.write("nothing.py", template if with_the_template else "")
    done = elsewhere.run("llama-reference", "check", "nothing.py", "--component", "rms_norm", "--quick")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: \S*nothing.py: ", line)


def test_pytest_runs_the_installed_suite(elsewhere, template):
    right = elsewhere.write("my.py", filled_in(template, build=BUILD, rms_norm=RIGHT))
    chosen = (
        "--pyargs",
        "llama_reference.suite",
        "--implementation",
        right.name,
        "-k",
        "rms_norm or loss",
    )
    done = elsewhere.run("pytest", *chosen)
    assert done.returncode == 0, done.stdout
    assert "\n1 of 10 components judged and right, 189 answers: transformers' bits; NOT JUDGED: loss\n" in done.stdout


def test_tests_of_theirs_are_parametrized_with_the_checks(elsewhere, template):
    """Those of the wrong norm fail, those of the right one do not."""
    for name, body in (("right", RIGHT), ("wrong", WRONG)):
        elsewhere.write(f"{name}.py", filled_in(template, build=BUILD, rms_norm=body))
        elsewhere.write(f"test_{name}.py", THEIR_TEST.format(adapter=f"{name}.py"))
    done = elsewhere.run("pytest", "-rf", "test_right.py", "test_wrong.py")
    assert done.returncode == 1, done.stdout
    assert "looks like `" in done.stdout
    assert "FAILED test_wrong.py" in done.stdout
    assert "FAILED test_right.py" not in done.stdout
    assert re.search(r"^test_right\.py [.s]+ ", done.stdout, re.MULTILINE)


def test_the_plugin_is_silent_until_it_is_asked(elsewhere):
    elsewhere.write(
        "test_theirs.py",
        "import sys\n\n\ndef test_theirs():\n    assert 'torch' not in sys.modules\n",
    )
    done = elsewhere.run("pytest", "test_theirs.py")
    assert done.returncode == 0, done.stdout
    assert "llama_scratch" in done.stdout, "the plugin is not among those that pytest found"
    assert "component by component" not in done.stdout
