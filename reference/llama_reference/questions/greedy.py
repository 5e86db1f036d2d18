"""Greedy decoding, judged token by token on the text that the implementation itself wrote.

Two correct implementations may write different texts: where two tokens are equally likely up to rounding, either may be
taken, and from there on the texts have nothing in common. So a text is not compared with transformers' but re-anchored:
the exact logits of its own prefix say of every token how likely it was, and what rounding explains is a tie-break. The
error that a choice admits is half the gap to the best logit: one of the two is off by at least that. (notorch#85 sorts
its differences in this way.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config, Generate, Handle, State
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.budget import Verdict
from llama_reference.standard.outcome import Outcome


@dataclass(frozen=True, eq=False)
class Prompt:
    """What generate is asked: a model, rows of tokens (B, T), their mask, and when to end."""

    config: Config
    state: State
    dtype: torch.dtype
    tokens: Tensor
    mask: Tensor | None
    new: int
    stop: Sequence[int] = ()

    def ask(self, implementation: Generate, handle: Handle, use_cache: bool, **changed: Any) -> Tensor:
        """What it answers, settled; arguments are copied, so that nobody spoils the next one's question."""
        prompt = replace(self, **changed)
        mask = None if prompt.mask is None else prompt.mask.clone()
        stop = {"stop": list(prompt.stop)} if prompt.stop else {}
        return prompt.settled(
            implementation.generate(handle, prompt.tokens.clone(), mask, prompt.new, use_cache, **stop)
        )

    @property
    def real(self) -> Tensor:
        """(B, T): the mask, whether given or not."""
        return torch.ones_like(self.tokens) if self.mask is None else self.mask

    def settled(self, ids: Tensor) -> Tensor:
        """The ids (B, T + new) with each row's stop id repeated behind it: what stood there is nobody's business."""
        rows = [self.length(row) for row in ids[:, self.tokens.shape[1] :].tolist()]
        ids = ids.clone()
        for row, length in enumerate(rows):
            if length is not None:
                ids[row, self.tokens.shape[1] + length :] = ids[row, self.tokens.shape[1] + length - 1]
        return ids

    def length(self, row: list[int]) -> int | None:
        """How many tokens it takes to the first stop id, that one included; None without one."""
        return next((t + 1 for t, token in enumerate(row) if token in self.stop), None)

    def problem(self, ids: Tensor) -> str | None:
        """What is wrong with an answer before any logits are asked, if anything is."""
        B, T = self.tokens.shape
        if ids.dim() != 2 or len(ids) != B or ids.dtype.is_floating_point:
            return f"an answer {tuple(ids.shape)} of {ids.dtype}, expected whole numbers ({B}, {T} + new)"
        if not torch.equal(ids[:, :T], self.tokens):
            return "the answer does not begin with the prompt"
        lengths = [self.length(row) or self.new for row in ids[:, T:].tolist()]
        if ids.shape[1] - T != max(lengths):
            row = lengths.index(max(lengths))
            return f"{ids.shape[1] - T} new tokens, expected {max(lengths)}: then row {row} is done"
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.config["vocab_size"]:
            return "tokens that the vocabulary does not have"
        return None


@dataclass(frozen=True)
class Row:
    """What became of one row. Of one that is not transformers', the worst choice; gap and allowed are logits."""

    row: int
    kind: Outcome
    step: int = 0
    chosen: int = 0
    expected: int = 0
    gap: float = 0.0
    allowed: float = 0.0

    def __str__(self) -> str:
        if self.kind == Outcome.IDENTICAL:
            return f"row {self.row}: {self.kind}"
        return (
            f"row {self.row}: {self.kind} at step {self.step}: token {self.chosen}, expected {self.expected}, "
            f"whose logit is larger by {self.gap:.3g}; rounding explains {self.allowed:.3g}"
        )


def judge(label: str, prompt: Prompt, answer: Tensor, theirs: Tensor) -> Verdict:
    """The verdict on settled ids, given transformers'."""
    if torch.equal(answer, theirs):
        return Verdict(label, prompt.dtype, answer.dtype == theirs.dtype, 0.0, 0.0, "every token is transformers'")
    if problem := prompt.problem(answer):
        return Verdict(label, prompt.dtype, False, float("inf"), 0.0, problem)
    rows, verdict = classified(label, prompt, answer, theirs)
    diverged = [row for row in rows if row.kind == Outcome.DIVERGED]
    worst = diverged or [row for row in rows if row.kind == Outcome.TIE_BREAK]
    return replace(verdict, bitwise=False, worst="; ".join(map(str, worst)))


def classified(label: str, prompt: Prompt, answer: Tensor, theirs: Tensor) -> tuple[list[Row], Verdict]:
    """Every row of an answer without a problem, and the verdict on the choices of those that are not identical."""
    T = prompt.tokens.shape[1]
    steps = answer.shape[1] - prompt.tokens.shape[1]
    lengths = [prompt.length(row) or steps for row in answer[:, T:].tolist()]
    same = [r < len(theirs) and answer[r, : T + n].equal(theirs[r, : T + n]) for r, n in enumerate(lengths)]
    wanted = (torch.arange(steps) < torch.tensor(lengths)[:, None]) & ~torch.tensor(same)[:, None]
    hf, exact = _logits(prompt, answer)
    chosen = answer[:, T:, None]
    middle = (exact.amax(-1, keepdim=True) + exact.gather(-1, chosen)) / 2
    nearest = exact.minimum(middle).scatter(-1, chosen, middle)  # to the exact ones, of all that lead to these choices
    asked = wanted if wanted.any() else torch.ones_like(wanted)
    verdict = budget.judge(label, nearest[asked], hf[asked], exact[asked], prompt.dtype)
    unit = exact.abs().amax(-1) * torch.finfo(prompt.dtype).eps
    allowed = 2 * unit * (budget.FACTOR * verdict.oracle_error + budget.ULPS)  # either logit may be off
    gap = (exact.amax(-1) - exact.gather(-1, chosen)[..., 0]).where(wanted, 0)
    rows = []
    for r in range(len(answer)):
        wrong = gap[r] > allowed[r]
        t = int(wrong.int().argmax()) if wrong.any() else int((gap[r] / allowed[r]).argmax())
        kind = Outcome.IDENTICAL if same[r] else Outcome.DIVERGED if wrong.any() else Outcome.TIE_BREAK
        best = int(exact[r, t].argmax())
        rows.append(Row(r, kind, t, int(chosen[r, t]), best, gap[r, t].item(), allowed[r, t].item()))
    return rows, verdict


def _logits(prompt: Prompt, answer: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' and the exact logits (B, new, V) that each new token of the answer was to be chosen by."""
    steps = answer.shape[1] - prompt.tokens.shape[1]
    mask = torch.cat((prompt.real, torch.ones_like(answer[:, -steps:])), dim=1)[:, :-1]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    asked = answer[:, :-1], positions, mask
    build = prompt.config, prompt.state, prompt.dtype
    with torch.no_grad():
        hf = oracle.llama(oracle.build(*build), *asked)[:, -steps:]
        exact = formula.llama(formula.build(*build), *asked)[:, -steps:]
    return hf, exact
