"""A process that trains and is killed while it does: `python -m tests.ours.killed_training TEXT`.

Each line of its input, "event N OUT" or "after SECONDS OUT", trains or goes on training in OUT, in a child that is
killed before its N-th change of a directory, or after so many seconds. It answers "killed", "failed" or "done";
"ready" comes first.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from llama_scratch import train
from llama_scratch.train import TrainConfig
from tests.ours.killed_save import die_before

SETTINGS = {"steps": 24, "batch_size": 4, "context": 16, "vocab_size": 280, "hidden_size": 32, "layers": 2, "heads": 4,
            "warmup": 4, "eval_every": 12, "save_every": 5, "keep": 2}  # fmt: skip


def settings(text: Path, out: Path) -> TrainConfig:
    return TrainConfig(data=(text,), out=out, resume=(out / "run.json").exists(), **SETTINGS)


def main(text: Path) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        how, when, out = line.rstrip().split(maxsplit=2)
        child = os.fork()
        if child == 0:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            if how == "event":
                die_before(int(when))
            train.train(settings(text, Path(out)))
            os._exit(0)
        if how == "after":
            time.sleep(float(when))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "failed" if status else "done", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # it guards against a loss of power, which is not tried here, and is slow
    main(Path(sys.argv[1]))
