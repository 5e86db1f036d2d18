"""What torchrun starts: `python -m llama_scratch.train`, with two things more, told by the environment.

TEAM_GRADIENTS=PATH    the whole gradients of the first step are saved there
TEAM_KILLED_AT=N       in the first life of the run, the last process is killed in front of its N-th step
"""

import os
import signal

import torch
from safetensors.torch import save_file

from llama_scratch import train
from llama_scratch.training.distributed import whole_tensor

take_step = train.take_step
calls = []


def step(engine, *arguments):
    calls.append(1)
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    last = os.environ["RANK"] != "0"
    if len(calls) == int(os.environ.get("TEAM_KILLED_AT", 0)) and first_life and last:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = take_step(engine, *arguments)
    if len(calls) == 1 and first_life:
        names = (name.removeprefix("module.").removeprefix("model.") for name, _ in engine.named_parameters())
        gradients = {name: whole_tensor(p.grad) for name, p in zip(names, engine.parameters(), strict=True)}
        if not last:
            save_file(gradients, os.environ["TEAM_GRADIENTS"])
    return answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.take_step = step
    train.main()
