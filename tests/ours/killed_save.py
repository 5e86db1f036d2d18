"""A process that saves and is killed while it does: `python killed_save.py OLD NEW`.

Each line of its input, "K event N DIRECTORY" or "K after SECONDS DIRECTORY", saves model K, 0 or 1, to DIRECTORY in a
child that is killed before its N-th change of a directory, or after so many seconds. It answers "killed" or "done";
"ready" comes first.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

import torch

from llama_scratch import Llama

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.mkdir")
SHARD = 100_000


def die_before(change: int) -> None:
    seen = 0

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event not in CHANGES:  # killing is an event too
            return
        seen += 1
        if seen == change:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def obey(work: Callable[..., object], words: int) -> None:
    """Does the work of each line of the input in a child, and kills it when the line says so. A line's first words, so
    many, and its last go to `work`.
    """
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # it guards against a loss of power, which is not tried here, and is slow
    print("ready", flush=True)
    for line in sys.stdin:
        *which, how, when, directory = line.rstrip().split(maxsplit=words + 2)
        child = os.fork()
        if child == 0:
            if how == "event":
                die_before(int(when))
            work(*which, directory)
            os._exit(0)
        if how == "after":
            time.sleep(float(when))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "failed" if status else "done", flush=True)


if __name__ == "__main__":
    models = [Llama.from_pretrained(path) for path in sys.argv[1:]]
    obey(lambda which, directory: models[int(which)].save_pretrained(directory, max_shard_size=SHARD), words=1)
