"""What is right, in files: the float64 formula's answers, transformers', and how far one may be off.

Of every answer that is compared a few rows are kept, spread over it: whole rows, since an error counts by the largest
entry of its row. `allowed` is in units in the last place of that entry, as the judge allows them (standard.budget),
with the second opinion that the judge asks for where there is doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llama_reference.exchange.calls import Call
from llama_reference.exchange.recording import Output, Recorded, Recorder
from llama_reference.judge import comparison
from llama_reference.questions.checks import CHECKS
from llama_reference.questions.checks.sampling import WITH_TIES
from llama_reference.standard import budget, formula
from llama_reference.standard.cases import Case

ROWS = 3  # that are kept of every answer
CHANCES = 2  # of rounding by chance, in dtypes in which transformers may be lucky


@dataclass(frozen=True)
class Truth:
    """The truth about the answers to one question."""

    component: str
    case: Case
    recorded: Recorded

    def is_judged(self, output: Output) -> bool:
        """Whether it is compared where the parts of a model answer alone."""
        is_tokens = CHECKS[self.component].judge is not None
        return output in self._exact and not (is_tokens and self.case.dtype != torch.float32)  # ties are common there

    def rows(self, output: Output) -> list[int]:
        """Of the rows of an answer that are compared some, spread evenly, the first and the last among them."""
        _, which = self.recorded.labels[output]
        compared = (which.reshape(-1, self._width(output)) >= 0).all(-1).nonzero().flatten()
        if len(compared) <= ROWS:
            return compared.tolist()
        return [int(compared[i * (len(compared) - 1) // (ROWS - 1)]) for i in range(ROWS)]

    def allowed(self, output: Output) -> float:
        """Units in the last place of a row's largest entry."""
        labels, which = self.recorded.labels[output]
        return self._allowed.get(labels[int(which.max())], 0.0)

    def has_ties(self, output: Output) -> bool:
        """Whether equally likely tokens may stand for each other."""
        labels, which = self.recorded.labels[output]
        return self.component == "sampling" and labels[int(which.max())] in WITH_TIES

    def arrays(self, outputs: list[Output]) -> tuple[Tensor, Tensor]:
        """The kept rows of all answers, one after the other: exact ones, and transformers'."""
        exact, theirs = ([*self._kept(answers, outputs)] for answers in (self._exact, self.recorded.answers))
        return torch.cat(exact), torch.cat(theirs)

    def _kept(self, answers: dict[Output, Tensor], outputs: list[Output]) -> Iterator[Tensor]:
        for output in outputs:
            yield answers[output].reshape(-1, self._width(output))[self.rows(output)].flatten()

    def _width(self, output: Output) -> int:
        shape = self.recorded.answers[output].shape
        return shape[-1] if shape else 1

    @cached_property
    def _exact(self) -> dict[Output, Tensor]:
        """The formula's answers; where it is judged by its tokens, transformers'."""
        if CHECKS[self.component].judge is not None:
            return {(call.key, ""): self._tokens(call) for call in self.recorded.calls.values()}
        again = Recorded()
        with torch.no_grad():
            CHECKS[self.component].ask(Recorder(formula, again), self.case)  # type: ignore[arg-type]
        return again.answers

    def _tokens(self, call: Call) -> Tensor:
        """What transformers wrote, -1 behind the first stop id of a row, where anything may stand."""
        ids, start = self.recorded.answers[call.key, ""].clone(), call.arguments["tokens"].shape[1]
        stops = torch.isin(ids[:, start:], torch.tensor(call.arguments["stop"] or [-1]))
        ids[:, start:][stops.cumsum(-1) - stops.int() > 0] = -1
        return ids

    @cached_property
    def _allowed(self) -> dict[str, float]:
        if CHECKS[self.component].judge is not None:
            return {}
        theirs, exact = comparison.reference_answers(self.component, self.case)
        found = {label: budget.ulps(theirs[label], exact[label], self.case.dtype).max().item() for label in theirs}
        for seed in range(CHANCES if self.case.dtype != torch.float32 else 0):
            by_chance = comparison.chance_errors(self.component, self.case, seed)
            found = {label: max(error, by_chance[label]) for label, error in found.items()}
        return {label: budget.FACTOR * error + budget.ULPS for label, error in found.items()}
