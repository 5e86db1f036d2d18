"""Every error of the package has one base, and only errors that a user can mend become one line."""

import importlib
import pkgutil

import pytest

import llama_scratch
from llama_scratch import convert, train
from llama_scratch.data import __main__ as data
from llama_scratch.errors import MESSAGE, LlamaScratchError
from llama_scratch.generate import command

COMMANDS = {
    "train": (train, "train", ["--out", "OUT"]),
    "convert": (convert, "convert", ["SOURCE", "OUT"]),
    "data": (data, "prepare", ["--tokens-dir", "OUT"]),
    "generate": (command, "run", ["SOURCE", "--prompt", "x"]),
}


def exception_classes():
    """Every exception class that is defined in a module of the package."""
    names = [module.name for module in pkgutil.walk_packages(llama_scratch.__path__, "llama_scratch.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    classes = {found for module in modules for found in vars(module).values() if isinstance(found, type)}
    ours = {found for found in classes if found.__module__.startswith("llama_scratch")}
    return {found for found in ours if issubclass(found, BaseException)}


def test_every_exception_class_has_the_one_base():
    found = exception_classes()
    named = {each.__name__ for each in found}
    assert named >= {"CheckpointError", "TokenizerError", "DataError", "TrainingError", "ConfigError", "ChatError",
                     "PromptError", "GenerationError", "CompileError"}  # fmt: skip
    assert [each for each in found if not issubclass(each, LlamaScratchError)] == []


def test_no_error_is_another_kind_of_error():
    """An `except` names what it handles: a text with a surrogate is not a damaged checkpoint."""
    classes = exception_classes() - {LlamaScratchError}
    pairs = [(a.__name__, b.__name__) for a in classes for b in classes if a is not b and issubclass(a, b)]
    assert pairs == []


@pytest.mark.parametrize("kind", sorted(exception_classes(), key=str), ids=lambda kind: kind.__name__)
def test_a_message_is_one_line(kind):
    assert str(kind("a\nb\x1b[31m  c")) == "a b [31m c"
    assert len(str(kind("x" * 10**6))) < MESSAGE + 10


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, TypeError], ids=lambda kind: kind.__name__)
def test_a_bug_shows_its_traceback(name, kind, tmp_path, monkeypatch):
    with pytest.raises(kind, match="a bug"):
        start(name, kind("a bug"), tmp_path, monkeypatch)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", [LlamaScratchError, OSError], ids=lambda kind: kind.__name__)
def test_what_a_user_can_mend_is_one_line(name, kind, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as end:
        start(name, kind("mend me"), tmp_path, monkeypatch)
    assert end.value.code == "error: mend me"


def start(name, error, directory, monkeypatch):
    module, work, arguments = COMMANDS[name]

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(module, work, fail)
    paths = [word.replace("OUT", str(directory / "out")).replace("SOURCE", str(directory)) for word in arguments]
    monkeypatch.setattr("sys.argv", [name, *paths])
    module.main()
