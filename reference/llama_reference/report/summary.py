"""The Results of a run, component by component: one cell a section, a verdict on the whole, and what to say below."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llama_reference.judge.comparison import NO_GRADIENTS
from llama_reference.mistakes import COMPONENTS
from llama_reference.questions import properties
from llama_reference.questions.checks.attention import IN_CHUNKS
from llama_reference.report.numbers import short
from llama_reference.report.results import (
    ANSWERS,
    BIT_FOR_BIT,
    GRADIENTS,
    Results,
    Row,
    Trouble,
)
from llama_reference.standard.outcome import Outcome

HEADINGS = ("component", "formula", "oracle", "gradients", "properties", "mistakes rejected")
# What a component is made of: where one of these is wrong, it is wrong too, and that is not its own fault.
BLOCK = ("rms_norm", "rotary", "attention", "swiglu")
MODEL = (*BLOCK, "block")
PARTS = {"attention": ("rotary",), "block": BLOCK, "kv_cache": MODEL, "llama": MODEL,
         "generate": (*MODEL, "kv_cache", "llama")}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What the table says of one section, and how it came out: BITWISE or HOLDS, WITHIN, WRONG, or NOT_JUDGED."""

    text: str = ""
    outcome: Outcome = Outcome.NOT_JUDGED


def asked(results: Results) -> list[str]:
    """The components that the run was about, in the order of the catalogue."""
    seen = {row.component for row in results.rows} | {trouble.component for trouble in results.troubles}
    return [
        name
        for name in COMPONENTS
        if name in seen | results.properties.keys() | results.kills.keys() | results.unasked.keys()
    ]


def cells(results: Results, component: str) -> list[Cell]:
    """One for each heading but the first."""
    answers = rows(results, component, ANSWERS)
    gap = _gap(results, component, ANSWERS, answers)
    return [
        gap or _formula(answers),
        gap or _oracle(results, answers),
        _gradients(results, component),
        _properties(results, component),
        _mistakes(results, component),
    ]


def rows(results: Results, component: str, section: str) -> list[Row]:
    return [row for row in results.rows if (row.component, row.section) == (component, section)]


def troubles(results: Results, kind: Outcome, component: str, section: str | None = None) -> list[Trouble]:
    found = [trouble for trouble in results.troubles if (trouble.kind, trouble.component) == (kind, component)]
    return [trouble for trouble in found if section in (None, trouble.section)]


def _gap(results: Results, component: str, section: str, judged: list[Row]) -> Cell | None:
    """What to say where there is nothing to judge."""
    if all(row.within for row in judged) and (raised := troubles(results, Outcome.RAISED, component, section)):
        return Cell(f"WRONG, {len(raised)} raise", Outcome.WRONG)
    if judged:
        return None
    if troubles(results, Outcome.TROUBLE, component, section):
        return Cell(Outcome.TROUBLE)
    return Cell(Outcome.NOT_OFFERED) if troubles(results, Outcome.NOT_OFFERED, component, section) else Cell()


def nearest(judged: list[Row]) -> Row:
    """The row that is furthest beyond its budget, or nearest to it."""
    return max(judged, key=lambda row: (not row.within, row.error / (row.oracle_error + 1)))


def _formula(judged: list[Row]) -> Cell:
    if wrong := [row for row in judged if not row.within]:
        off = short(max(row.error for row in wrong))
        return Cell(f"WRONG {len(wrong)} of {len(judged)}, {off} ulp", Outcome.WRONG)
    differ = [row for row in judged if not row.bitwise]
    if not differ:
        return Cell(f"{len(judged)} within", Outcome.BITWISE)
    row = nearest(differ)
    return Cell(f"{len(judged)} within, {short(row.error)} ulp ({short(row.oracle_error)})", Outcome.WITHIN)


def _oracle(results: Results, judged: list[Row]) -> Cell:
    equal = sum(row.bitwise for row in judged)
    if equal == len(judged):
        return Cell(f"bitwise {equal}", Outcome.BITWISE)
    if results.about.get("judged") == BIT_FOR_BIT:
        return Cell(f"WRONG {len(judged) - equal} of {len(judged)}", Outcome.WRONG)
    return Cell(
        f"{equal} of {len(judged)} bitwise", Outcome.WITHIN if all(row.within for row in judged) else Outcome.WRONG
    )


def _gradients(results: Results, component: str) -> Cell:
    if component in NO_GRADIENTS:
        return Cell("–")
    judged = rows(results, component, GRADIENTS)
    if gap := _gap(results, component, GRADIENTS, judged):
        return gap
    wrong = sum(not row.within for row in judged)
    return Cell(f"WRONG {wrong} of {len(judged)}", Outcome.WRONG) if wrong else _oracle(results, judged)


def _properties(results: Results, component: str) -> Cell:
    claims = results.properties.get(component, {})
    count = Counter(claims.values())
    if count[Outcome.BROKEN]:
        return Cell(f"{count[Outcome.BROKEN]} of {len(claims)} BROKEN", Outcome.WRONG)
    told = {
        "hold": Outcome.HOLDS,
        "known to fail": Outcome.KNOWN_FAILURE,
        "in trouble": Outcome.TROUBLE,
        "not offered": Outcome.NOT_OFFERED,
    }
    text = ", ".join(f"{count[outcome]} {word}" for word, outcome in told.items() if count[outcome])
    return Cell(text, Outcome.HOLDS if count[Outcome.HOLDS] == len(claims) > 0 else Outcome.NOT_JUDGED)


def _mistakes(results: Results, component: str) -> Cell:
    if not (kills := results.kills.get(component)):
        return Cell()
    killed = sum(map(bool, kills.values()))
    return Cell(f"{killed}/{len(kills)}", Outcome.HOLDS if killed == len(kills) else Outcome.WRONG)


# conclusions


def wrong(results: Results) -> list[str]:
    """The components that are wrong, or of which a test failed."""
    return [
        name
        for name in asked(results)
        if any(cell.outcome == Outcome.WRONG for cell in cells(results, name)[:-1])
        or troubles(results, Outcome.BROKEN, name)
    ]


def suspects(results: Results) -> list[str]:
    """The wrong components in which nothing else is wrong: what breaks where no part of it does has its own reason, and
    so has what looks like a mistake of its own on top of those of its parts.
    """
    found = wrong(results)
    breaks = {name for name in found if troubles(results, Outcome.RAISED, name)}
    within = {name: _contained(results, name, found) for name in found}
    own = {name for name in found if _adds_its_own(results, name)}
    return [name for name in found if not within[name] or name in own or (name in breaks and not within[name] & breaks)]


def _contained(results: Results, name: str, found: list[str]) -> set[str]:
    """Which of the wrong components it is made of. What is wrong over a cache alone is so by itself or by the cache:
    the one that looks like a known mistake.
    """
    parts = set(PARTS.get(name, ())) & set(found)
    if "kv_cache" in found and _over_a_cache_alone(results, name) and not _looks_like_its_own(results, name):
        return parts | ({"kv_cache"} if _looks_like_its_own(results, "kv_cache") else set())
    if name == "kv_cache":
        parts = {x for x in parts if not _over_a_cache_alone(results, x) or _looks_like_its_own(results, x)}
    return parts


def _over_a_cache_alone(results: Results, name: str) -> bool:
    """Whether it answers right wherever there is no cache."""
    labels = {row.label for row in results.rows if row.component == name and not row.within}
    claims = results.properties.get(name, {})
    over_a_cache = {claim.name for claim in properties.of(name) if "cache" in claim.needs}
    broken = {claim for claim, outcome in claims.items() if outcome == Outcome.BROKEN}
    return bool(labels or broken) and labels <= {IN_CHUNKS} and broken <= over_a_cache


def _adds_its_own(results: Results, name: str) -> bool:
    """Whether it looks like a mistake of its own, alone or beside its parts'."""
    told = _first_name(results, name)
    return told.count("` of ") < told.count("`") // 2


def _looks_like_its_own(results: Results, name: str) -> bool:
    """Whether it was named, by a mistake of no other component."""
    told = _first_name(results, name)
    return bool(told) and "` of " not in told


def _first_name(results: Results, name: str) -> str:
    diagnosis = results.diagnoses.get(name)
    return diagnosis.named[0].title if diagnosis and diagnosis.named else ""


def is_wrong(results: Results, component: str) -> bool:
    """Whether it is among the wrong ones."""
    return component in wrong(results)


def in_trouble(results: Results) -> list[str]:
    """The components of which something could not be judged for trouble."""
    return [name for name in asked(results) if troubles(results, Outcome.TROUBLE, name)]


def verdict(results: Results) -> tuple[bool, str]:
    """True if all is right, and the one sentence to read."""
    about = asked(results)
    bad = wrong(results)
    troubled = in_trouble(results)
    unjudged = [name for name in about if not is_judged(results, name)]
    lacking = [name for name in unjudged if name not in {*troubled, *results.unasked}]
    others = len(troubles(results, Outcome.BROKEN, ""))
    elsewhere = f"; trouble, and no verdict: {', '.join(troubled)}" if troubled else ""
    elsewhere += f"; {others} other test{'s' * (others > 1)} failed" if others else ""
    elsewhere += f"; so far: stopped by {results.cut_short}" if results.cut_short else ""
    if bad:
        inner = suspects(results)
        outer = [name for name in bad if name not in inner]
        parts = f" (and so what contains {'it' if len(inner) == 1 else 'them'}: {', '.join(outer)})" if outer else ""
        return False, f"WRONG: {', '.join(inner)}{parts}{elsewhere}"
    bits = results.rows and all(row.bitwise for row in results.rows)
    how = "transformers' bits" if bits else "within the budget" if results.rows else "nothing compared"
    right = len(about) - len({*unjudged, *troubled})
    without = f"; NOT JUDGED: {', '.join(lacking)}" if lacking else ""
    text = f"{right} of {len(COMPONENTS)} components judged and right, {len(results.rows)} answers: {how}"
    stopped = others or troubled or troubles(results, Outcome.TROUBLE, "") or results.cut_short
    return not stopped and bool(right), text + without + elsewhere


def is_right(results: Results, component: str) -> bool:
    """True if the component was judged, and nothing about it is wrong or in trouble."""
    return is_judged(results, component) and component not in {*wrong(results), *in_trouble(results)}


def is_nothing_judged(results: Results) -> bool:
    """Whether all that was asked for is lacking, or refused: such a run has found nothing right and nothing wrong."""
    broken = any(trouble.kind != Outcome.NOT_OFFERED for trouble in results.troubles)
    return not broken and not any(is_judged(results, name) for name in asked(results))


def why_nothing(results: Results) -> str:
    """The adapter's own reasons."""
    reasons = dict.fromkeys(trouble.message.removeprefix(f"{Outcome.NOT_OFFERED}: ") for trouble in results.troubles)
    return f"it does not offer {', '.join(reasons)}" if reasons else "nothing was asked"


def is_judged(results: Results, component: str) -> bool:
    """True if at least one answer or claim of the component was judged."""
    return any(row.component == component for row in results.rows) or any(
        outcome not in (Outcome.NOT_OFFERED, Outcome.TROUBLE)
        for outcome in results.properties.get(component, {}).values()
    )
