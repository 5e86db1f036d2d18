"""A trained checkpoint with known answers: text published with llama2.c, and the logits of that C program."""

import json

import numpy as np
import pytest
import torch

from llama_reference.standard.budget import OTHER_PROGRAM
from llama_scratch import Llama, Tokenizer, generate


@pytest.fixture(scope="module")
def model(shared):
    return Llama.from_pretrained(shared / "stories260K")


def test_writes_the_published_story(model, shared):
    known = json.loads((shared / "known_answers.json").read_text())["known_answers"][0]
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    for use_cache in (True, False):
        ids = generate(
            model, torch.tensor([known["prompt_ids"]]), known["greedy_steps"], use_cache=use_cache, stop_ids=[]
        )
        assert tokenizer.decode(ids[0].tolist()) == known["expected_text"]


def test_logits_are_those_of_the_c_program(model, shared):
    ids = torch.tensor([json.loads((shared / "stories260K" / "greedy_ids.json").read_text())])
    theirs = torch.from_numpy(np.load(shared / "stories260K" / "greedy_logits_float32.npy"))
    with torch.no_grad():
        ours = model(ids[:, :256])[0]
    assert ours.shape == theirs.shape == (256, 512)
    assert (ours - theirs).abs().max() < OTHER_PROGRAM
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
