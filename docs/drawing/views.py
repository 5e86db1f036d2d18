"""What each known mistake does, as a picture: the right answer, the wrong one, and their difference.

A view asks an implementation for 2-D arrays. Most components answer the suite's own questions; where a number matrix
says little, the view is made for the eye: what every query reads, the surface of the gate, the gradient of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import numpy.typing as npt
import torch

from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.judge import comparison
from llama_reference.questions.checks import gradients
from llama_reference.standard.cases import HARD, ROPES, Case
from llama_reference.standard.stepwise import StepwiseLlama

Array = npt.NDArray[np.float64]
Views = dict[str, Array]  # where it is seen -> what is seen
ROWS, COLUMNS = 25, 25
NOTHING = 1e-5  # relative differences below it are rounding
NONE = np.empty((0, 0))


@dataclass(frozen=True)
class Picture:
    """right | wrong | difference, and where that was seen."""

    image: Array
    where: str
    difference: float  # the largest, relative to the largest right number


def flat(answer: torch.Tensor) -> Array:
    """All rows of a tensor below each other."""
    x = answer.detach().double()
    return x.reshape(-1, x.shape[-1] if x.ndim else 1).numpy()


def answers(component: str, dtype: torch.dtype) -> Callable[[Implementation], Views]:
    """The suite's own questions."""

    def ask(implementation: Implementation) -> Views:
        return {
            f"{label} ({case.variant})": flat(x)
            for case in comparison.cases(component)
            if case.dtype == dtype
            for label, x in comparison.ask(component, implementation, case).items()
        }

    return ask


def of_gradients(component: str) -> Callable[[Implementation], Views]:
    """The suite's gradients."""

    def ask(implementation: Implementation) -> Views:
        found = gradients.ask(component, implementation, Case())
        return {label: flat(x) for label, x in found.items()}

    return ask


def sized(implementation: Implementation) -> Views:
    """One ramp from −0.5 to 1.5 at sizes from 10⁻⁴ to 10³, a row a size, behind a gain that falls from 1.2 to 0.5."""
    where, found = "model.layers.0.input_layernorm", {}
    x = torch.linspace(-0.5, 1.5, COLUMNS) * torch.logspace(-4, 3, 16)[:, None]
    for eps in (1e-6, 1e-5, 1e-2):
        state = {where + ".weight": torch.linspace(1.2, 0.5, COLUMNS)}
        handle = implementation.build(HARD | {"rms_norm_eps": eps}, state, torch.float32)
        found[f"a ramp at sizes from 1e-4 (top) to 1e3, eps {eps:g}"] = flat(
            implementation.rms_norm(handle, where, x[None])
        )
    return found


def turned(implementation: Implementation) -> Views:
    """Ones, turned as queries and as keys at positions 0, 8, 16, …: one column a channel."""
    found = {}
    for name, rope in ROPES.items():
        handle = implementation.build(HARD | {"rope_parameters": rope}, {}, torch.float32)
        ones = torch.ones(2, 1, 40, 20)
        positions = torch.arange(40)[None] * 8 + torch.tensor([[0], [3]])
        q, k = implementation.rotary(handle, ones, ones, positions)
        for label, part in (("query", q[0, 0]), ("key", k[0, 0]), ("query of the second row", q[1, 0])):
            found[f"{label}, {name} frequencies"] = part.detach().double().numpy()
    return found


def read(implementation: Implementation) -> Views:
    """What every query reads: values are one-hot in their position, so the output is the weights, two heads beside
    each other, of two rows, one of them padded."""
    T = H = 12
    config = HARD | {"hidden_size": 2 * H, "head_dim": H, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "attention_bias": False, "rope_parameters": ROPES["default"]}  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    at = "model.layers.0.self_attn."
    features = torch.cat((torch.eye(H), torch.zeros(H, H)), dim=1)  # the first half of x
    where = torch.cat((torch.zeros(H, H), torch.eye(H)), dim=1)  # the second half: one-hot position
    state = {
        at + "q_proj.weight": torch.randn(4 * H, H, generator=generator) @ features * 0.6,
        at + "k_proj.weight": torch.randn(2 * H, H, generator=generator) @ features * 0.6,
        at + "v_proj.weight": torch.cat((where, where)),
        at + "o_proj.weight": torch.eye(4 * H)[: 2 * H],  # the first two heads, as they are
    }
    x = torch.cat((torch.randn(2, T, H, generator=generator), torch.eye(T).expand(2, T, H)), dim=-1)
    positions = torch.arange(T).expand(2, T)
    mask = (torch.arange(T) >= torch.tensor([[0], [3]])).long()
    handle = implementation.build(config, state, torch.float32)
    y = implementation.attention(handle, 0, x, positions, mask).detach()
    return {f"what the queries of {row} read": y[i].double().numpy() for i, row in enumerate(("a row", "a padded row"))}


def surface(implementation: Implementation) -> Views:
    """y for gate and up from −4 to 4: D = 2, F = 1, so that x is (gate, up)."""
    at, found = "model.layers.0.mlp.", {}
    axis = torch.linspace(-4, 4, 25)
    x = torch.stack(torch.meshgrid(axis.flip(0), axis, indexing="ij"), dim=-1).flip(-1)
    for act in ("silu", "gelu", "relu", "gelu_pytorch_tanh"):
        for bias in (0.0, 1.0):
            state = {at + "gate_proj.weight": torch.tensor([[1.0, 0]]), at + "up_proj.weight": torch.tensor([[0, 1.0]]),
                     at + "down_proj.weight": torch.tensor([[1.0], [0]])}  # fmt: skip
            if bias:
                state |= {at + f"{name}_proj.bias": torch.full((n,), bias) for name, n in
                          (("gate", 1), ("up", 1), ("down", 2))}  # fmt: skip
            config = HARD | {"hidden_size": 2, "intermediate_size": 1, "hidden_act": act, "mlp_bias": bool(bias)}
            y = implementation.swiglu(implementation.build(config, state, torch.float32), 0, x)
            found[f"{act}{', biases of 1' if bias else ''}"] = y[..., 0].detach().double().numpy()
    return found


def pull(implementation: Implementation) -> Views:
    """The gradient of the loss with respect to the logits: what training pulls up and down at every position."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 10, 16, generator=generator).requires_grad_()
    labels = torch.randint(16, (2, 10), generator=generator)
    labels[0, 3], labels[1, 6:] = -100, -100
    value = implementation.loss(logits, labels).sum()
    value.backward()
    return {f"its gradient, row {i}": logits.grad[i].double().numpy() for i in range(2)} | {
        "the loss itself": np.full((10, 16), value.item())
    }


OWN = {"rms_norm": sized, "rotary": turned, "attention": read, "swiglu": surface, "loss": pull}


def sources(component: str) -> Iterator[Callable[[Implementation], Views]]:
    """Where to look for a difference, the most telling first."""
    if component in OWN:
        yield OWN[component]
    yield answers(component, torch.float32)
    if component != "generate":
        yield answers(component, torch.bfloat16)
    if component not in comparison.NO_GRADIENTS:
        yield of_gradients(component)


@cache
def right(component: str) -> tuple[Views, ...]:
    return tuple(ask(StepwiseLlama()) for ask in sources(component))


def picture(mistake: mistakes.Mistake) -> Picture | None:
    """The first view in which the mistake shows; None where it shows in no answer."""
    for ask, truths in zip(sources(mistake.component), right(mistake.component), strict=True):
        found = ask(mistake.implementation)
        pairs = {label: _fitted(truth, found.get(label, NONE)) for label, truth in truths.items()}
        where = max(pairs, key=lambda label: _difference(*pairs[label]))
        if (difference := _difference(*pairs[where])) > NOTHING:
            return Picture(_beside(*_worst(*pairs[where])), where, difference)
    return None


def _fitted(truth: Array, wrong: Array) -> tuple[Array, Array]:
    """Both of one shape: what one of them lacks is not a number."""
    rows, columns = (max(a, b) for a, b in zip(truth.shape, wrong.shape, strict=True))
    return tuple(
        np.pad(x, ((0, rows - x.shape[0]), (0, columns - x.shape[1])), constant_values=np.nan) for x in (truth, wrong)
    )


def _difference(truth: Array, wrong: Array) -> float:
    off = np.abs(np.nan_to_num(wrong - truth, nan=np.inf, posinf=np.inf))
    return float(off.max() / max(np.nanmax(np.abs(truth)), 1e-30))


def _worst(truth: Array, wrong: Array) -> tuple[Array, Array]:
    """The part of both, ROWS x COLUMNS at most, in which they differ most."""
    off = np.nan_to_num(np.abs(wrong - truth), nan=np.inf)
    at = np.unravel_index(off.argmax(), off.shape)
    cut = tuple(slice(int(i) // n * n, (int(i) // n + 1) * n) for i, n in zip(at, (ROWS, COLUMNS), strict=True))
    return truth[cut], wrong[cut]


def _beside(truth: Array, wrong: Array) -> Array:
    """right | wrong | difference as colours (rows, columns, 4), the difference on its own scale."""
    off = wrong - truth
    top = np.nanmax(np.abs(truth), initial=0.0) or 1.0
    most = np.nanmax(np.abs(off), initial=0.0) or 1.0
    gap = np.zeros((len(truth), 1, 4))
    parts = (_coloured(truth / top), gap, _coloured(wrong / top), gap, _coloured(off / most))
    return np.concatenate(parts, axis=1)


def _coloured(x: Array) -> Array:
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#7a7a7a")
    return colours(np.ma.masked_invalid((np.clip(x, -1, 1) + 1) / 2))
