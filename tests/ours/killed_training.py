"""A process that trains and is killed while it does: `python -m tests.ours.killed_training TEXT`.

Each line of its input, "event N OUT" or "after SECONDS OUT", trains or goes on training in OUT, in a child that is
killed before its N-th change of a directory, or after so many seconds. It answers "killed", "failed" or "done";
"ready" comes first.
"""

import os
import sys
from functools import partial
from pathlib import Path

from llama_scratch import train
from llama_scratch.train import TrainConfig
from tests.ours.killed_save import obey

SETTINGS = {"steps": 24, "batch_size": 4, "seq_len": 16, "vocab_size": 280, "hidden_size": 32, "layers": 2, "heads": 4,
            "warmup": 4, "eval_every": 12, "save_every": 5, "keep_checkpoints": 2}  # fmt: skip


def settings(text: Path, out: Path) -> TrainConfig:
    return TrainConfig(data=(text,), out=out, resume=(out / "run.json").exists(), **SETTINGS)


def work(text: Path, out: str) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    train.train(settings(text, Path(out)))


if __name__ == "__main__":
    obey(partial(work, Path(sys.argv[1])), words=0)
