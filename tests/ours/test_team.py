"""Several processes train as one does, and what they leave one process goes on with."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from llama_scratch import Llama, train
from llama_scratch.train import TrainConfig
from llama_scratch.training.distributed import Distributed
from llama_scratch.training.setup import flag
from tests.profiles import among

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {"steps": 20, "batch_size": 8, "seq_len": 16, "vocab_size": 280, "hidden_size": 32, "layers": 2, "heads": 4,
            "warmup": 4, "eval_every": 10, "save_every": 5, "max_grad_norm": 0.5}  # fmt: skip
TEAMS = among(
    ["2 ddp adamw", "2 fsdp adamw", "4 ddp adamw", "4 fsdp adamw", "2 ddp muon", "2 fsdp muon", "4 fsdp muon"],
    ["2 ddp adamw", "2 fsdp adamw", "2 fsdp muon"],
)
# Sums in another order: in the gradients of one step a few roundings, which twenty steps of AdamW carry on. Muon rounds
# to bfloat16 on its way, so that a few roundings become some of those.
EPS = torch.finfo(torch.float32).eps
GRADIENTS, LOSSES = 32 * EPS, {"adamw": 1024 * EPS, "muon": torch.finfo(torch.bfloat16).eps / 8}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verse.txt"
    path.write_text("The cat sat on the mat.\n  The dog did not.\n\n" * 60)
    return path


def losses(out: Path) -> dict[int, tuple[float, float]]:
    """Step -> loss and norm of the gradients."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["gradient_norm"]) for row in rows}


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    """Optimiser -> where one process ends, and the gradients of its first step."""
    return functools.cache(functools.partial(train_alone, text, tmp_path_factory))


def train_alone(text, folders, optimizer):
    found = {}
    take_step = train.take_step

    def step(engine, *arguments):
        answer = take_step(engine, *arguments)
        if not found:
            found.update({name: p.grad.clone() for name, p in engine.model.named_parameters()})
        return answer

    out = folders.mktemp("alone") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "take_step", step)
        train.train(TrainConfig(data=(text,), out=out, optimizer=optimizer, **SETTINGS))
    return out, found


@pytest.mark.parametrize("team", TEAMS)
def test_a_team_trains_as_one_process_does_and_comes_back_when_one_of_it_is_killed(text, tmp_path, alone, team):
    size, parallel, optimizer = team.split()
    out = tmp_path / "out"
    gradients = tmp_path / "gradients.safetensors"
    settings = SETTINGS | {"data": text, "out": out, "parallel": parallel, "optimizer": optimizer}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", size]
    line += ["--max-restarts", "1", "-m", "tests.ours.team_worker"]
    line += [part for name, value in settings.items() for part in (flag(name), str(value))]
    told = {"TEAM_GRADIENTS": str(gradients), "OMP_NUM_THREADS": "1"} | (
        {"TEAM_KILLED_AT": "8"} if parallel == "fsdp" else {}
    )
    done = subprocess.run(line, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == SETTINGS["steps"]
    expected, first = alone(optimizer)
    found = load_file(gradients)
    assert found.keys() == first.keys()
    for name, gradient in first.items():
        assert gradient.any()
        assert (found[name] - gradient).norm() <= GRADIENTS * gradient.norm(), name
    for step, values in losses(expected).items():
        for ours, theirs in zip(losses(out)[step], values, strict=True):
            assert abs(ours - theirs) <= LOSSES[optimizer] * theirs, step
    if parallel == "fsdp":
        assert "resumed after step 5" in done.stdout, done.stdout + done.stderr
        opens_and_goes_on(out, Path(shutil.copytree(expected, tmp_path / "alone")), LOSSES[optimizer])


def opens_and_goes_on(out: Path, alone: Path, budget: float) -> None:
    """By transformers, and by one process, from the checkpoint of several."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        logits = theirs(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        assert torch.equal(Llama.from_pretrained(out)(tokens), logits)
    histories = [
        train.train(train.read_command_line(["--resume", "--out", str(o), "--steps", "25"])) for o in (out, alone)
    ]
    ours, theirs = (history[-1] for history in histories)
    assert ours.step == theirs.step == 25
    assert abs(ours.loss - theirs.loss) <= budget * theirs.loss


def test_the_parts_of_a_team_are_the_batch(monkeypatch):
    batch = torch.arange(24).reshape(8, 3)
    parts = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        parts.append(Distributed("cpu").local_rows(batch))
    assert torch.equal(torch.cat(parts), batch)
