"""A step of ours is a step of a plain loop on transformers' model, bit for bit: gradients, and parameters after 20."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from llama_reference.standard import oracle
from llama_scratch import Llama, LlamaConfig, data, train
from llama_scratch.checkpoint import config_file
from llama_scratch.data import TokenArray
from llama_scratch.train import TrainConfig
from llama_scratch.training.distributed import Distributed
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import learning_rate, make_optimizers

SIZES = LlamaConfig(
    vocab_size=101, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
)  # fmt: skip
CONFIG = TrainConfig(
    steps=20, warmup=4, batch_size=6, seq_len=19, max_grad_norm=0.5, optimizer="adamw", weight_decay=0.1
)
VARIANTS = {
    "plain": ({}, {}),
    "tied": ({"tie_word_embeddings": True}, {}),
    "biases": ({"attention_bias": True, "mlp_bias": True}, {}),
    "in parts": ({}, {"grad_accum_steps": 3}),
    "tied, in parts": ({"tie_word_embeddings": True}, {"grad_accum_steps": 2}),
    "bfloat16": ({}, {"dtype": "bfloat16"}),
    "tied, bfloat16, in parts": ({"tie_word_embeddings": True}, {"dtype": "bfloat16", "grad_accum_steps": 3}),
    "muon": ({}, {"optimizer": "muon"}),
    "muon, tied, bfloat16, in parts": (
        {"tie_word_embeddings": True},
        {"optimizer": "muon", "dtype": "bfloat16", "grad_accum_steps": 3},
    ),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "t.bin"
    np.random.default_rng(0).integers(101, size=2000).astype(np.uint16).tofile(path)
    return TokenArray([path], np.dtype(np.uint16))


@pytest.fixture(params=VARIANTS)
def pair(request):
    """The settings, our model, and transformers' with the same weights and optimisers of its own."""
    sizes, settings = VARIANTS[request.param]
    torch.manual_seed(0)
    ours = Llama(dataclasses.replace(SIZES, **sizes))
    with torch.no_grad():
        for weight in ours.parameters():  # loud: what is wrong anywhere shows in all gradients
            weight += torch.randn_like(weight) * 0.1
    state = {name: weight.clone() for name, weight in ours.state_dict().items()}
    theirs = oracle.build(config_file.to_dict(ours.config), state, torch.float32).train()
    config = dataclasses.replace(CONFIG, **settings)
    return config, ours, theirs, optimizers_of(theirs, config.optimizer)


def optimizers_of(theirs, kind: str) -> list[torch.optim.Optimizer]:
    """As torch's documentation has them: Muon for the matrices of hidden layers, AdamW for what it is not given."""
    hidden = [p for p in theirs.model.layers.parameters() if p.ndim == 2] if kind == "muon" else []
    muon = [torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")] if hidden else []
    others = [p for p in theirs.parameters() if not any(p is other for other in hidden)]
    groups = [
        {"params": [p for p in others if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True), *muon]


def plain_step(theirs, optimizers, batch, rate, config) -> None:
    """As a loop with transformers is written: labels, num_items_in_batch, clipping, the optimisers."""
    theirs.zero_grad()
    for part in batch.chunk(config.grad_accum_steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
            mask = torch.ones_like(part)
            count = {"num_items_in_batch": batch[:, 1:].numel()} if config.grad_accum_steps > 1 else {}
            loss = theirs(part, attention_mask=mask, labels=part, use_cache=False, **count).loss
        loss.backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), config.max_grad_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def both(pair, tokens, steps: int) -> list[float]:
    """Norms of the gradients before clipping."""
    config, ours, theirs, their_optimizers = pair
    objective = Objective(ours.train())
    optimizers = make_optimizers(ours, config.optimizer, config.weight_decay)
    team, norms = Distributed("cpu"), []
    for step in range(steps):
        batch = data.random_sequences(tokens, config.batch_size, config.seq_len, seed=0, step=step)
        rate = learning_rate(step, config.learning_rate, config.warmup, config.steps)
        norms.append(train.take_step(objective, optimizers, batch, rate, config, team)[1].item())
        plain_step(theirs, their_optimizers, batch, rate, config)
    return norms


def test_the_first_gradients_have_transformers_bits(pair, tokens):
    config, ours, theirs, _ = pair
    (norm,) = both(pair, tokens, 1)
    assert norm > config.max_grad_norm, "or clipping was not tried"
    for (name, parameter), (their_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert parameter.grad.any(), name
        assert torch.equal(parameter.grad, other.grad), name


def test_twenty_steps_are_transformers_twenty_steps(pair, tokens):
    _, ours, theirs, _ = pair
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    both(pair, tokens, 20)
    for (name, parameter), other, old in zip(ours.named_parameters(), theirs.parameters(), before, strict=True):
        assert not torch.equal(parameter, old), name
        assert torch.equal(parameter, other), name


def test_parts_of_a_batch_count_by_their_tokens(tokens):
    """Three parts, or one: the same gradients, as nearly as sums in another order are."""
    gradients = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = Llama(SIZES).train()
        config = dataclasses.replace(CONFIG, grad_accum_steps=accumulate, max_grad_norm=1e9)
        batch = data.random_sequences(tokens, config.batch_size, config.seq_len, 0, 0)
        optimizers = make_optimizers(model, "adamw", 0.1)
        loss, _ = train.take_step(Objective(model), optimizers, batch, 0.0, config, Distributed("cpu"))
        gradients.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (loss, whole), (same_loss, parts) = gradients
    eps = torch.finfo(torch.float32).eps
    assert abs(same_loss - loss) <= 4 * eps * loss
    assert (parts - whole).norm() <= 16 * eps * whole.norm()
