"""How one item is asked of an implementation and judged, and what a run has found out so far.

A function that an adapter does not have, or that raises NotImplementedError, is not offered: that is neither right nor
wrong. Neither is trouble (suite.trouble). Everything else that goes wrong in a comparison is kept in the Results too,
so that no answer is silently missing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any
from unittest import SkipTest

import torch

from llama_reference import mistakes
from llama_reference.judge import blindness, comparison, description, diagnosis, layouts
from llama_reference.judge.blindness import Asked
from llama_reference.questions import finding
from llama_reference.questions.checks import CHECKS
from llama_reference.questions.checks.check import Answers
from llama_reference.questions.finding import Found
from llama_reference.questions.properties import Claim
from llama_reference.report.results import (
    ANSWERS,
    GRADIENTS,
    PROPERTIES,
    Diagnosis,
    Named,
    Results,
)
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case, dtypes, lacking, twin
from llama_reference.standard.outcome import Outcome
from llama_reference.suite import trouble
from llama_reference.suite.draws import Draws
from llama_reference.suite.offered import NotOffered, Offered
from llama_reference.suite.plan import Item, answer_cases, left_out
from llama_reference.suite.trouble import NoVerdict

EXAMPLES = 25  # draws of a claim that does not say how many it wants
# the tests of answers and of gradients
TEST_WITHIN, TEST_BITWISE = "is_within_budget_of_the_formula", "equals_transformers_bit_for_bit"
CONTAINERS = ("attention", "block", "kv_cache", "llama")  # which are asked otherwise where their parts do not answer
UNKNOWN = "no known mistake gives these answers"


class NotAsked(SkipTest):
    """What is left out, since the component is wrong beyond doubt without it."""


@contextmanager
def seeded() -> Iterator[None]:
    """Start random numbers anew, and let them go on afterwards as if nothing had been drawn.

    An implementation that draws some, which may be its mistake, then answers the same whatever was asked before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class WrongAnswers(AssertionError):  # noqa: N818  an outcome, not an error
    """Answers that are not what they have to be; the message says which, and what they look like."""


@dataclass(frozen=True)
class Comparison:
    """The verdicts on all answers of one component to one case."""

    component: str
    session: Session
    verdicts: list[Verdict]

    def must_be_bitwise(self) -> None:
        """Raises WrongAnswers unless every answer has transformers' bits."""
        __tracebackhide__ = True
        self._must([verdict for verdict in self.verdicts if not verdict.bitwise])

    def must_be_within_budget(self) -> None:
        """Raises WrongAnswers unless every answer is about as near to the formula as transformers' answer is."""
        __tracebackhide__ = True
        self._must([verdict for verdict in self.verdicts if not verdict.within])

    def _must(self, wrong: list[Verdict]) -> None:
        __tracebackhide__ = True
        if not wrong:
            return
        lines = [f"{self.component}: {len(wrong)} of {len(self.verdicts)} answers are wrong", *map(str, wrong[:5])]
        if len(wrong) > 5:
            lines.append(f"and {len(wrong) - 5} more")
        raise WrongAnswers("\n  ".join([*lines, *self.session.told(self.component)]))


class Session:
    """One adapter under test: asks it, judges it, and keeps the Results. Comparisons are worked out once."""

    def __init__(self, adapter: object, results: Results, times: float = 1.0, driven: bool = False) -> None:
        self.adapter, self.results = adapter, results
        self.implementation = Offered(adapter)
        self._known_failures: dict[str, str] = getattr(adapter, "KNOWN_FAILURES", {})
        self._times = times  # factor on the number of examples of every claim
        self._driven = driven  # by a runner, which decides what is left out, and when to diagnose
        self.compare = cache(self._compare)
        self.compare_gradients = cache(self._compare_gradients)
        self.found = cache(self._find)
        self._answered = cache(self._answer)
        self._trouble = cache(self._look_for_trouble)
        self._answers = cache(self._ask_alone)
        self._looks = cache(self._look)
        self._convention = cache(layouts.of_rotary)

    def _find(self, component: str) -> Found:
        """What the component can be asked."""
        stated = getattr(self.adapter, "SUPPORTS", {})
        found = finding.find(component, self.implementation, stated)
        if component in CONTAINERS:
            answering = (p for p in found.profile.parts if p == component or self._answers(p))
            found = replace(found, profile=replace(found.profile, parts=tuple(answering)))
        if features := found.profile.lacks():
            said = {name: "as SUPPORTS states" for name in features if name.partition(" ")[0] in stated}
            self.results.lacking[component] = dict.fromkeys(features, "") | said | found.reasons
        return found

    def _ask_alone(self, part: str) -> bool:
        """Whether the part answers alone."""
        return finding.find(part, self.implementation, getattr(self.adapter, "SUPPORTS", {})).answers

    def survey(self, component: str) -> None:
        """Note which known mistakes nothing rejects that the component was asked, where it was not asked everything."""
        refused = any(t.component == component and t.kind == Outcome.NOT_OFFERED for t in self.results.troubles)
        rows = [row for row in self.results.rows if row.component == component]
        answers = frozenset((row.variant, row.dtype) for row in rows if row.section == ANSWERS)
        differentiated = frozenset((row.variant, row.dtype) for row in rows if row.section == GRADIENTS)
        claims = self.results.properties.get(component, {}).items()
        judged = frozenset(name for name, outcome in claims if outcome != Outcome.NOT_OFFERED)
        if (refused or component in self.results.lacking) and (answers or judged):
            asked = Asked(answers, differentiated, judged)
            profile = self.found(component).profile
            self.results.unseen[component] = blindness.unseen(component, profile, asked, self.implementation.bitwise)

    def _case(self, component: str, variant: str, dtype: torch.dtype) -> Case:
        """The case within the component's profile. Raises NotOffered where there is none."""
        profile = self.found(component).profile
        feature = lacking(variant, profile)
        if dtype not in dtypes(profile):
            feature = f"dtype {dtype}".replace("torch.", "")
        if not comparison.is_asked(component, profile):
            feature = "cache" if component == "kv_cache" else f"parts {component}"
        self._must_have(component, feature)
        return Case(variant, dtype, profile=profile)

    def _must_have(self, component: str, missing: str) -> None:
        """Raises NotOffered where a feature is missing, with the adapter's own reason."""
        if missing:
            reason = self.found(component).reasons.get(missing, "").removeprefix(f"{Outcome.NOT_OFFERED}: ")
            raise NotOffered(f"{Outcome.NOT_OFFERED}: {missing}" + (f" ({reason})" if reason else ""))

    def _compare(self, component: str, variant: str, dtype: torch.dtype) -> Comparison:
        """Judge the answers to one case by transformers and the formula."""
        case = self._case(component, variant, dtype)
        if (same := twin(variant, CHECKS[component].variants, case.profile)) != variant:
            return self.compare(component, same, dtype)
        self._ask_or_not(Item(component, ANSWERS, variant, dtype))
        with self._noted(component, ANSWERS, f"{variant}, {dtype}"):
            answers, verdicts = self._answered(component, case)
            if not all(verdict.within for verdict in verdicts):
                self._must_be_sound(component)
        if others := trouble.other_dtypes(answers, comparison.oracle_answers(component, case)):
            self.results.add_remark(component, f"answers in {others}")
        self.results.add(component, ANSWERS, variant, verdicts)
        return Comparison(component, self, verdicts)

    def _answer(self, component: str, case: Case) -> tuple[Answers, list[Verdict]]:
        """The answers to one case, and the verdicts on them. Raises NoVerdict where they have the wrong form."""
        with seeded():
            answers = comparison.ask(component, self.in_our_layout(component), case)
        if CHECKS[component].judge is None:
            problem = trouble.of_shapes(answers, comparison.oracle_answers(component, case))
            if problem and not self._is_known(component):
                raise NoVerdict(f"{component}: {problem}")
        return answers, comparison.verdicts(component, case, answers)

    def _is_known(self, component: str) -> bool:
        """Whether a known mistake explains what is wrong."""
        return bool(self._looks(component).named)

    def _compare_gradients(self, component: str, variant: str, dtype: torch.dtype) -> Comparison:
        """Judge the gradients of one case by transformers' and exact ones."""
        profile = self._case(component, variant, dtype).profile
        if (same := twin(variant, CHECKS[component].gradient_variants, profile)) != variant:
            return self.compare_gradients(component, same, dtype)
        self._ask_or_not(Item(component, GRADIENTS, variant, dtype))
        with self._noted(component, GRADIENTS, f"{variant}, {dtype}"):
            with seeded():
                asked = self.in_our_layout(component)
                verdicts = comparison.gradient_verdicts(component, asked, variant, dtype, profile=profile)
            if not all(verdict.within for verdict in verdicts):
                self._must_be_sound(component)
        self.results.add(component, GRADIENTS, variant, verdicts)
        return Comparison(component, self, verdicts)

    def in_our_layout(self, component: str) -> Any:
        """The implementation, its rotary embedding translated where that differs by convention only."""
        convention = None
        if component == "rotary":
            convention = self._convention(self.implementation, profile=self.found(component).profile)
        if convention is None:
            return self.implementation
        self.results.conventions[component] = convention.told
        return layouts.Translated(self.implementation, convention)

    def _ask_or_not(self, item: Item) -> None:
        """Raise NotAsked where the component is wrong beyond doubt and the item is not in the sample."""
        if not self._driven and (why := left_out(item, self.results)):
            self.results.leave_out(item.component, why, str(item))
            raise NotAsked(f"not asked: {item.component} is {why}")

    @contextmanager
    def _noted(self, component: str, section: str, case: str) -> Iterator[None]:
        """A comparison that raises leaves no verdict, and must not be missing for it in the report."""
        try:
            yield
        except NotImplementedError:
            raise
        except Exception as error:
            if problem := trouble.reason(error) if isinstance(error, NoVerdict) else self._trouble(component):
                raise NoVerdict(problem) from error
            message = f"{type(error).__name__}: {error}"
            self.results.add_trouble(Outcome.RAISED, component, section, case, message)
            self.told(component)
            raise

    def _must_be_sound(self, component: str) -> None:
        """Raise NoVerdict where the component's first answer cannot be judged at all."""
        if problem := self._trouble(component):
            raise NoVerdict(problem)

    def _look_for_trouble(self, component: str) -> str | None:
        """Why the first case that the component answers can have no verdict, where no known mistake explains it."""
        for variant, dtype in answer_cases(component):
            try:
                case = self._case(component, variant, dtype)
                answers, verdicts = self._answered(component, case)
                again = comparison.ask(component, self.in_our_layout(component), case)
            except NotImplementedError:
                continue
            except NoVerdict as found:
                return trouble.reason(found)
            except Exception:  # judged where it is asked
                return None
            if all(verdict.within for verdict in verdicts):
                return None
            problem = trouble.of_numbers(answers) or trouble.of_repetition(answers, again)
            return f"{component}: {problem}" if problem and not self._is_known(component) else None
        return None

    def told(self, component: str) -> list[str]:
        """What a failure says of the likely mistake."""
        return [] if self._driven else self.diagnose(component).lines()

    def diagnose(self, component: str) -> Diagnosis:
        """The nearest known mistakes; worked out once, however many items fail."""
        found = self._looks(component)
        self.results.diagnoses[component] = found
        return found

    def _look(self, component: str) -> Diagnosis:
        if component not in mistakes.COMPONENTS:
            return Diagnosis(otherwise=UNKNOWN)
        profile = self.found(component).profile
        with seeded():
            found = diagnosis.looks_like(component, self.implementation, profile=profile)
            if found:
                return Diagnosis([Named(likeness.title, likeness.why) for likeness in found[:3]])
            told = description.describe(component, self.implementation, profile=profile)
        return Diagnosis(otherwise=f"{UNKNOWN}: {told}" if told else UNKNOWN)

    def hold(self, claim: Claim) -> None:
        """Raise WrongAnswers where hypothesis finds a draw for which the claim does not hold.

        A draw that is refused is left out; where all are, this raises NotOffered.
        """
        self._ask_or_not(Item(claim.component, PROPERTIES, claim=claim))
        profile = self.found(claim.component).profile
        self._must_have(claim.component, claim.lacking(profile))
        examples = max(1, int(claim.examples * self._times)) if claim.examples > 1 else 1
        implementation = self.in_our_layout(claim.component)
        draws = Draws(claim, profile)
        try:
            with torch.no_grad(), self._told_of_trouble(claim.component), seeded():
                draws.check(implementation, examples)
        except AssertionError as error:
            raise WrongAnswers(f"{claim} does not hold{draws.last()}: {_asserted(error)}") from error
        if not draws.answered:
            raise NotOffered(draws.refusals[0])
        if draws.refusals:
            self.results.left_out.setdefault(claim.component, {})[claim.name] = draws.refused()

    @contextmanager
    def _told_of_trouble(self, component: str) -> Iterator[None]:
        """Raise NoVerdict instead of what is raised, where the component's first answer cannot be judged at all."""
        try:
            yield
        except (NotImplementedError, NoVerdict):
            raise
        except Exception:
            self._must_be_sound(component)
            raise

    def tests(self, item: Item) -> dict[str, Callable[[], None]]:
        """By pytest's name for it, each test of an item: a call that raises where the implementation is wrong."""
        if item.claim is not None:
            return {name_of_test(item): partial(self.hold, item.claim)}
        compare = self.compare if item.section == ANSWERS else self.compare_gradients
        case = item.component, item.variant, item.dtype
        found = {name_of_test(item, TEST_WITHIN): lambda: compare(*case).must_be_within_budget()}
        if self.implementation.bitwise:
            found[name_of_test(item, TEST_BITWISE)] = lambda: compare(*case).must_be_bitwise()
        return found

    def ask(self, item: Item) -> None:
        """Ask one item, and keep whatever comes of it in the results; raises nothing that the adapter raises."""
        for where, test in self.tests(item).items():
            outcome = self._outcome(item, where, test)
            if item.claim is not None:
                self.results.add_property(item.component, item.claim.name, outcome)

    def _outcome(self, item: Item, where: str, test: Callable[[], None]) -> Outcome:
        """Run a test; what does not simply pass is kept as a Trouble."""
        known = next((why for part, why in self._known_failures.items() if part in where), None)
        try:
            test()
        except NotImplementedError as refusal:
            outcome, message = Outcome.NOT_OFFERED, str(refusal)
        except NoVerdict as problem:
            outcome, message = Outcome.TROUBLE, trouble.reason(problem)
        except Exception as error:
            outcome = Outcome.BROKEN if known is None else Outcome.KNOWN_FAILURE
            message = known or told(error)
        else:
            if known is None:
                return Outcome.HOLDS
            outcome = Outcome.BROKEN
            message = f"holds, but KNOWN_FAILURES says: {known}"
        self.results.add_trouble(outcome, item.component, item.section, where, message)
        return outcome


def name_of_test(item: Item, name: str = "") -> str:
    """What pytest calls the same test, from the name of its file on."""
    file = f"test_{item.component}.py"
    group = f"Test{item.section.capitalize()}"
    if item.claim is not None:
        return f"{file}::{group}::test_holds[{item.claim}]"
    return f"{file}::{group}::test_{name}[{item.variant}-{item.dtype}]"


def told(error: BaseException) -> str:
    """What to say of an error, without its traceback."""
    return str(error) if isinstance(error, WrongAnswers) else f"{type(error).__name__}: {error}"


def _asserted(error: AssertionError) -> str:
    """The message of an assertion, or the assertion itself where it has none; nothing of what pytest adds to either."""
    text = str(error).partition("assert ")[0].strip()
    return text or traceback.extract_tb(error.__traceback__)[-1].line or "AssertionError"
