"""Claims about the next-token loss: the mean over targets of -log softmax(logits)[target], shifted by one."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llama_reference.implementation import Loss
from llama_reference.questions.properties.asking import must_agree, must_vanish, numbers
from llama_reference.questions.properties.claims import Claims, Draw

CLAIMS = Claims("loss")

B, T, V = 3, 9, 31
BATCHES = 8  # one loss is one number, whose rounding may be lucky


def batch(seed: int, scale: float = 1.0, ignored: bool = True) -> tuple[Tensor, Tensor]:
    """Logits and labels, some of them ignored, and of each row another number."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (B, T), generator=generator)
    hidden = torch.rand(B, T, generator=generator) < torch.tensor([0.1, 0.5, 0.7])[:, None]
    hidden[:, 1] = False  # of each row at least one counts
    return numbers(seed, B, T, V, scale=scale), labels.masked_fill(hidden & torch.tensor(ignored), -100)


def counted(labels: Tensor) -> Tensor:
    """Which positions are a target, by the position that predicts it: the last one predicts nothing."""
    return torch.cat((labels[:, 1:] != -100, torch.zeros(len(labels), 1, dtype=torch.bool)), dim=1)


@CLAIMS.claim(examples=1)
def uniform_logits_cost_log_v(implementation: Loss, _draw: Draw) -> None:
    must_vanish(_uniform, implementation)


def _uniform(source: Loss) -> Tensor:
    vocabularies = (2, 3, 31, 64, 101, 1000)
    costs = [source.loss(torch.zeros(2, 5, v), torch.arange(10).view(2, 5) % v).item() for v in vocabularies]
    return torch.tensor([cost / math.log(v) - 1 for cost, v in zip(costs, vocabularies, strict=True)])


@CLAIMS.claim(examples=6)
def a_token_is_predicted_from_the_one_before(implementation: Loss, draw: Draw) -> None:
    """Only the logits before the one token that counts matter."""
    t = draw.integer(1, 6)
    must_vanish(_certain, implementation, t)
    logits, labels = _one_target(t)
    assert implementation.loss(logits.roll(1, dims=1), labels).item() > 1


def _one_target(t: int) -> tuple[Tensor, Tensor]:
    logits = torch.zeros(1, 7, 8)
    labels = torch.full((1, 7), -100)
    labels[0, t], logits[0, t - 1, 3] = 3, 100.0
    return logits, labels


def _certain(source: Loss, t: int) -> Tensor:
    logits, labels = _one_target(t)
    return source.loss(logits, labels) / logits.max()


@CLAIMS.claim()
def logits_that_predict_no_target_count_for_nothing(implementation: Loss, draw: Draw) -> None:
    """Those of the last position, and those before an ignored label: not a bit changes."""
    logits, labels = batch(draw.integer(0, 2**16))
    other = torch.where(counted(labels)[..., None], logits, 7 * logits.flip(-1))
    assert torch.equal(implementation.loss(logits, labels), implementation.loss(other, labels))


@CLAIMS.claim()
def the_first_label_is_nobodys_target(implementation: Loss, draw: Draw) -> None:
    logits, labels = batch(draw.integer(0, 2**16))
    other = labels.clone()
    other[:, 0] = torch.tensor([-100, 0, V - 1])
    assert torch.equal(implementation.loss(logits, labels), implementation.loss(logits, other))


@CLAIMS.claim()
def a_constant_added_to_logits_changes_nothing(implementation: Loss, draw: Draw) -> None:
    """Another constant at every position."""
    must_vanish(_raised, implementation, draw.integer(0, 2**16), draw.choice((1.0, 10.0, 100.0)))


def _raised(source: Loss, seed: int, size: float) -> Tensor:
    def change(one: int) -> float:
        logits, labels = batch(seed + one)
        raised = logits + numbers(seed - one - 1, B, T, 1, scale=size)
        return (source.loss(raised, labels) - source.loss(logits, labels)).item() / raised.abs().max().item()

    return torch.tensor([change(one) for one in range(BATCHES)])


@CLAIMS.claim()
def every_target_weighs_the_same(implementation: Loss, draw: Draw) -> None:
    """n loss(batch) = Σ n_row loss(row): rows with few targets do not weigh more, ignored labels nothing."""
    must_agree(_by_rows, implementation, draw.integer(0, 2**16))


def _by_rows(source: Loss, seed: int) -> tuple[Tensor, Tensor]:
    def means(one: int) -> tuple[float, float]:
        logits, labels = batch(seed + one)
        n = counted(labels).sum(1)
        alone = [source.loss(logits[i : i + 1], labels[i : i + 1]).item() * n[i].item() for i in range(B)]
        return source.loss(logits, labels).item(), sum(alone) / n.sum().item()

    return _pairs(means)


def _pairs(means: Callable[[int], tuple[float, float]]) -> tuple[Tensor, Tensor]:
    one, other = torch.tensor([means(i) for i in range(BATCHES)], dtype=torch.float64).T
    return one, other


@CLAIMS.claim()
def two_logits_a_distance_apart_cost_a_logistic(implementation: Loss, draw: Draw) -> None:
    """V = 2: log(1 + e^-d) where the target lies d above the other."""
    must_vanish(_logistic, implementation, draw.integer(-8, 8))


def _logistic(source: Loss, middle: int) -> Tensor:
    def surplus(d: float) -> float:
        logits = torch.tensor([d, 0.0]).expand(B, T, -1)
        labels = torch.zeros(B, T, dtype=torch.long)
        exact = math.log1p(math.exp(-d))
        return (source.loss(logits, labels).item() - exact) / max(exact, abs(d))

    return torch.tensor([surplus(middle + eighth / 8) for eighth in range(BATCHES)])


@CLAIMS.claim()
def the_names_of_tokens_do_not_matter(implementation: Loss, draw: Draw) -> None:
    must_agree(_renamed, implementation, draw.integer(0, 2**16))


def _renamed(source: Loss, seed: int) -> tuple[Tensor, Tensor]:
    def means(one: int) -> tuple[float, float]:
        logits, labels = batch(seed + one)
        old = torch.randperm(V, generator=torch.Generator().manual_seed(seed + one))
        new = torch.where(labels == -100, -100, old.argsort()[labels.clamp(min=0)])
        return source.loss(logits[..., old], new).item(), source.loss(logits, labels).item()

    return _pairs(means)


@CLAIMS.claim()
def half_precision_logits_are_widened_first(implementation: Loss, draw: Draw) -> None:
    must_agree(_widened, implementation, draw.integer(0, 2**16), draw.choice((torch.bfloat16, torch.float16)))


def _widened(source: Loss, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    def means(one: int) -> tuple[float, float]:
        logits, labels = batch(seed + one, scale=3.0)
        narrow = logits.to(dtype)
        return source.loss(narrow, labels).item(), source.loss(narrow.float(), labels).item()

    return _pairs(means)
