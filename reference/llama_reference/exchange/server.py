"""Lets a Python adapter answer questions that are files, in an environment of its own: this file needs NumPy only.

    python server.py ADAPTER.py REQUEST FOLDER

answers one request; without the last two it reads such pairs from standard input, a line each, and writes a line for
each that is done. Tensors are torch's where torch can be imported, else NumPy's arrays.
"""

import importlib.util
import inspect
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

BFLOAT16 = ".bfloat16.npy"


def load(path):
    """The adapter; it may import what stands in its own folder and in the working directory."""
    sys.path += [str(Path(path).resolve().parent), str(Path.cwd())]
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor(path):
    """The tensor in a file, in the dtype that it has there."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return next(iter(load_file(path).values()))
    found = np.load(path)
    if torch is None:
        return found
    found = torch.from_numpy(found)
    return found.bfloat16() if path.endswith(BFLOAT16) else found


def save(path, answer):
    """An answer as a file; .npy has no bfloat16, and float32 holds it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({"tensor": answer.detach().contiguous()}, path)
    elif torch is not None and isinstance(answer, torch.Tensor):
        answer = answer.detach()
        np.save(path, (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy())
    else:
        np.save(path, answer)


def value(word):
    """A word of a request as what it stands for."""
    if word.endswith((".npy", ".safetensors")):
        return tensor(word)
    if word in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[word]
    if "," in word:
        return [value(part) for part in word.split(",")]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


class Server:
    """The adapter, the last model of a request, and its caches."""

    def __init__(self, adapter):
        self.adapter = adapter

    def answer(self, request, folder):
        """Answer every call that the adapter offers, into files of the folder."""
        self.config, self.weights, self.handle, self.caches = {}, {}, None, {}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for line in Path(request).read_text(encoding="utf-8").splitlines()[1:]:
            kind, name, *words = line.split(" ")
            if kind == "model":
                self.dtype, self.config, self.weights, self.handle = name, {}, {}, None
            elif kind == "config":
                part, _, key = name.rpartition(".")
                into = self.config.setdefault("rope_parameters", {}) if part else self.config
                into[key] = value(words[0])
            elif kind == "weight":
                self.weights[name] = tensor(words[0])
            else:
                given = dict(word.split("=", 1) for word in words)
                files = [Path(folder) / given.pop(key) for key in [*given] if key.startswith("answer")]
                found = self.offered(name, {key: value(word) for key, word in given.items()})
                for path, one in zip(files, found, strict=False):
                    save(path, one)

    def offered(self, name, given):
        """The answers to a call; none where the adapter does not offer it."""
        if not hasattr(self.adapter, name):
            return ()
        try:
            with torch.no_grad() if torch else nullcontext():
                found = self.call(name, given)
        except NotImplementedError:
            return ()
        return found if isinstance(found, tuple) else () if name in ("new_cache", "crop", "reorder") else (found,)

    def call(self, name, given):
        """Make a call; of those on caches the result is kept."""
        function, number = getattr(self.adapter, name), given.pop("cache", None)
        if name == "sampling":
            return function(given.pop("logits"), given.pop("tokens"), **given)
        if name == "loss":
            return function(*given.values())
        if self.handle is None and self.config:
            dtype = getattr(torch, self.dtype) if torch else self.dtype
            self.handle = self.adapter.build(self.config, self.weights, dtype)
        if name == "generate":
            stop = given.pop("stop")
            stop = [] if stop is None else stop if isinstance(stop, list) else [stop]
            if stop and "stop" not in inspect.signature(function).parameters:
                return ()
            return function(self.handle, *given.values(), *([stop] if stop else []))
        if name == "new_cache":
            self.caches[number] = function(self.handle, *given.values())
            return ()
        if number is None:
            return function(self.handle, *given.values())
        if number not in self.caches:
            return ()
        if name in ("crop", "reorder"):
            self.caches[number] = function(self.handle, self.caches[number], *given.values())
            return ()
        return function(self.handle, *given.values(), self.caches[number])


def main():
    """Answer one request, or all that come."""
    server = Server(load(sys.argv[1]))
    if len(sys.argv) > 2:
        server.answer(*sys.argv[2:])
        return
    out, sys.stdout = sys.stdout, sys.stderr  # what the adapter prints is no answer
    for line in sys.stdin:
        server.answer(*line.split())
        print("done", file=out, flush=True)


if __name__ == "__main__":
    main()
