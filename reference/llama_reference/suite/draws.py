"""The draws by which hypothesis asks whether a claim holds."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import hypothesis
from hypothesis import strategies as st

from llama_reference.questions.properties import Claim
from llama_reference.standard.profile import Profile


class Drawn:
    """Choices made by hypothesis; they are kept, for the message of a claim that does not hold."""

    def __init__(self, data: st.DataObject, profile: Profile) -> None:
        self._data, self.profile = data, profile
        self.choices: list[Any] = []

    def integer(self, lowest: int, highest: int) -> int:
        """Draw an integer, both ends included."""
        self.choices.append(self._data.draw(st.integers(lowest, highest)))
        return self.choices[-1]

    def choice(self, options: Sequence[Any]) -> Any:
        """Draw one of the options."""
        self.choices.append(self._data.draw(st.sampled_from(options)))
        return self.choices[-1]


class Draws:
    """The draws of one claim: how many were answered, and with which words others were refused."""

    def __init__(self, claim: Claim, profile: Profile) -> None:
        self.claim, self.profile = claim, profile
        self.answered = 0
        self.refusals: list[str] = []
        self._last: Drawn | None = None  # hypothesis ends with the draw that it reports

    def check(self, implementation: Any, examples: int) -> None:
        """Draw so many examples. Raises AssertionError for one for which the claim does not hold."""
        settings = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[hypothesis.Phase.generate],  # a draw is small already; shrinking it would cost a second
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
        )

        @settings
        @hypothesis.given(data=st.data())
        def drawn(data: st.DataObject) -> None:
            self._last = Drawn(data, self.profile)
            try:
                self.claim.check(implementation, self._last)
            except NotImplementedError as refusal:
                self.refusals.append(str(refusal))
            else:
                self.answered += 1

        drawn()

    def last(self) -> str:
        """What was chosen in the last draw, in words; empty where nothing was."""
        choices = self._last.choices if self._last else []
        return f" for {', '.join(map(reprlib.repr, choices))}" if choices else ""

    def refused(self) -> str:
        """How many draws were refused, in words."""
        return f"{len(self.refusals)} of {self.answered + len(self.refusals)} draws"
