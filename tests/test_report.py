"""The report: what the table says, what the files hold, and that nothing wrong or lacking looks right."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llama_reference import mistakes
from llama_reference.adapter_loader import load
from llama_reference.judge import comparison
from llama_reference.report import __main__ as command
from llama_reference.report import html, notes, suite_page, summary
from llama_reference.report import terminal as report
from llama_reference.report.results import (
    ANSWERS,
    BIT_FOR_BIT,
    BY_BUDGET,
    GRADIENTS,
    Diagnosis,
    Named,
    Results,
    Trouble,
    about,
)
from llama_reference.standard.budget import Verdict
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.collector import SECTION, Collector, equivalents
from llama_reference.suite.plan import items
from llama_reference.suite.session import Session

ROOT = Path(__file__).parent.parent
HOSTILE = "<script>alert('a & \"b\"')</script>"


def verdict(error=1.0, oracle_error=1.0, bitwise=True, dtype=torch.float32):
    return Verdict("an answer", dtype, bitwise, error, oracle_error, "")


def green() -> Results:
    """A run of the whole suite in which all is well."""
    of_the_run = {"implementation": "ours.py", "judged": BIT_FOR_BIT, "torch": "2.13.0+cpu", "transformers": "5.23.0"}
    results = Results(of_the_run, equivalents=[("rms_norm", "another_name", "the same bits")])
    for component in mistakes.COMPONENTS:
        for dtype in (torch.float32, torch.bfloat16):
            results.add(component, "answers", "hard", [verdict(dtype=dtype)] * 3)
            if component not in comparison.NO_GRADIENTS:
                results.add(component, "gradients", "hard", [verdict(dtype=dtype)] * 2)
        results.properties[component] = {"it_is_so": Outcome.HOLDS, "it_is_so_too": Outcome.HOLDS}
        results.kills[component] = {known.name: ["formula", "oracle"] for known in mistakes.of(component)}
    results.depth = {"float32": [(1.0, 1.5), (2.0, 1.5)], "bfloat16": [(0.5, 0.5), (math.inf, 0.5)]}
    return results


def wrong(component: str, error: float) -> Results:
    results = green()
    results.add(component, "answers", "one group", [verdict(error, bitwise=False)])
    return results


def line(results: Results, component: str) -> str:
    """The component's row, its cells one blank apart."""
    (found,) = (row for row in report.table(results).splitlines() if row.startswith(f"{component}  "))
    return " ".join(found.split())


def test_a_green_run_is_one_row_a_component_in_the_order_of_the_catalogue():
    lines = report.table(green()).splitlines()
    assert lines[0] == f"10 of 10 components judged and right, {6 * 10 + 4 * 7} answers: transformers' bits"
    assert [row.split()[0] for row in lines[2:14]] == ["mistakes", "component", *mistakes.COMPONENTS]
    assert lines[3].split() == ["component", "formula", "oracle", "gradients", "properties", "rejected"]
    count = len(mistakes.of("rms_norm"))
    assert line(green(), "rms_norm") == f"rms_norm 6 within bitwise 6 bitwise 4 2 hold {count}/{count}"
    assert "sampling (choosing a token is not differentiated)" in report.table(green())


def test_what_is_wrong_stands_first_and_names_the_innermost():
    results = wrong("rms_norm", 123456.0)
    results.add("block", "answers", "hard", [verdict(99.0, bitwise=False)])
    results.diagnoses = {
        "rms_norm": Diagnosis([Named("looks like `it`", "why"), Named("looks like `that`", "why")]),
        "block": Diagnosis(otherwise="no known mistake"),
    }
    text = report.table(results)
    assert text.splitlines()[0] == "WRONG: rms_norm (and so what contains it: block)"
    assert line(results, "rms_norm").startswith("rms_norm WRONG 1 of 7, 1e5 ulp WRONG 1 of 7 bitwise 4")
    assert "\nrms_norm: looks like `it`: why\n" in text
    assert "or, less likely: looks like `that`" in text
    assert "worst answer: an answer (one group, float32): 1e5 ulp off the formula, transformers 1" in text
    assert "block:" not in text


OWN, CACHES, NOBODYS = "looks like `a` (bits)", "looks like `b` of kv_cache (bits)", ""
BOTH = "looks like `c` of rms_norm and `d` (bits)"


@pytest.mark.parametrize(
    ("attention", "cache", "guilty"),
    [
        (CACHES, OWN, ["kv_cache"]),
        (NOBODYS, OWN, ["kv_cache"]),
        (OWN, NOBODYS, ["attention"]),
        (NOBODYS, NOBODYS, ["attention", "kv_cache"]),
    ],
)
def test_what_is_wrong_over_a_cache_alone_is_blamed_on_the_one_that_looks_like_a_mistake(attention, cache, guilty):
    results = green()
    results.add("attention", "answers", "hard", [replace(verdict(99.0, bitwise=False), label="in chunks")])
    results.add("kv_cache", "answers", "hard", [verdict(99.0, bitwise=False)])
    told = {"attention": attention, "kv_cache": cache}
    results.diagnoses = {name: Diagnosis([Named(title, "why")] if title else []) for name, title in told.items()}
    assert summary.suspects(results) == guilty
    results.add("attention", "answers", "hard", [verdict(99.0, bitwise=False)])  # without a cache, too
    assert summary.suspects(results)[0] == "attention"


def test_what_looks_like_a_mistake_of_its_own_beside_its_parts_is_blamed_too():
    results = wrong("rms_norm", 99.0)
    results.add("block", "answers", "hard", [verdict(99.0, bitwise=False)])
    results.diagnoses = {"block": Diagnosis([Named(BOTH, "why")])}
    assert summary.suspects(results) == ["rms_norm", "block"]
    results.diagnoses = {"block": Diagnosis([Named(BOTH.replace("`d`", "`d` of rms_norm"), "why")])}
    assert summary.suspects(results) == ["rms_norm"]


def test_an_adapter_without_the_bits_is_judged_by_budget_and_the_report_says_so():
    results = wrong("swiglu", 3.5)
    results.about["judged"] = BY_BUDGET
    assert line(results, "swiglu").startswith("swiglu 7 within, 3.5 ulp (1) 6 of 7 bitwise bitwise 4")
    assert summary.verdict(results)[0]
    assert "within the budget" in report.table(results).splitlines()[0]
    results.about["judged"] = BIT_FOR_BIT
    assert line(results, "swiglu").startswith("swiglu 7 within, 3.5 ulp (1) WRONG 1 of 7")
    assert not summary.verdict(results)[0]


@pytest.mark.parametrize(
    ("outcomes", "cell"),
    [
        ([Outcome.HOLDS] * 7, "7 hold"),
        ([Outcome.HOLDS, Outcome.BROKEN, Outcome.NOT_OFFERED, Outcome.BROKEN], "2 of 4 BROKEN"),
        ([Outcome.NOT_OFFERED] * 3, "3 not offered"),
        ([Outcome.HOLDS, Outcome.KNOWN_FAILURE, Outcome.NOT_OFFERED], "1 hold, 1 known to fail, 1 not offered"),
    ],
)
def test_properties_are_counted_by_what_became_of_them(outcomes, cell):
    results = Results(properties={"loss": {f"claim {i}": outcome for i, outcome in enumerate(outcomes)}})
    assert line(results, "loss") == f"loss {cell}"
    assert summary.verdict(results)[0] == (Outcome.HOLDS in outcomes and Outcome.BROKEN not in outcomes)


def test_what_is_not_offered_is_neither_right_nor_out_of_sight():
    results = green()
    results.rows = [row for row in results.rows if row.component != "sampling"]
    results.properties["sampling"] = {"it_is_so": Outcome.NOT_OFFERED}
    results.add_trouble(Outcome.NOT_OFFERED, "sampling", "answers", "a test", "not offered: sampling")
    assert line(results, "sampling").startswith("sampling not offered not offered – 1 not offered")
    assert report.table(results).splitlines()[0].endswith("; NOT JUDGED: sampling")
    assert report.table(results).startswith("9 of 10 ")
    assert "\nnot offered: sampling (sampling)\n" in report.table(results)


def test_a_comparison_without_a_verdict_is_wrong():
    results = green()
    results.add_trouble(Outcome.RAISED, "loss", "answers", "hard, float16", "ValueError: shapes differ")
    results.add_trouble(Outcome.RAISED, "loss", "answers", "hard, float16", "ValueError: shapes differ")
    assert line(results, "loss").startswith("loss WRONG, 1 raise WRONG, 1 raise bitwise 4")
    assert "loss: raises with hard, float16: ValueError: shapes differ" in report.table(results)


def test_a_failed_test_of_no_component_is_told_beside():
    results = green()
    results.add_trouble(Outcome.BROKEN, "", "", "worker gw1", "ended")
    assert summary.verdict(results) == (
        False,
        "10 of 10 components judged and right, 88 answers: transformers' bits; 1 other test failed",
    )
    assert "worker gw1: ended" in report.table(results)


def test_a_mistake_that_survives_is_named():
    results = green()
    name = mistakes.of("loss")[0].name
    results.kills["loss"][name] = []
    count = len(mistakes.of("loss"))
    assert line(results, "loss").endswith(f" {count - 1}/{count}")
    assert f"loss: mistakes that nothing here rejects: {name}" in report.table(results)
    assert "<details open><summary><b>loss</b>" in suite_page.render(results)


def test_it_reads_at_a_hundred_columns_when_everything_is_wrong():
    results = green()
    for component in mistakes.COMPONENTS:
        for section in ("answers", "gradients"):
            results.add(component, section, "hard", [verdict(math.inf, bitwise=False)] * 444)
        results.properties[component] = {f"claim {i}": Outcome.BROKEN for i in range(17)}
        results.diagnoses[component] = Diagnosis(
            [Named("looks like `one` (these are its bits)", "a long story, " * 20)]
        )
    assert max(map(len, report.table(results).splitlines())) <= report.WIDTH


def test_columns_with_nothing_are_left_out():
    results = green()
    results.kills, results.properties = {}, {}
    assert report.table(results).splitlines()[2].split() == ["component", "formula", "oracle", "gradients"]


def test_two_processes_know_what_one_would():
    """Each has some of the rows, claims and mistakes; a claim is worth what the worst part of it is."""
    whole, first, second = green(), green(), green()
    first.rows, second.rows = whole.rows[::2], whole.rows[1::2]
    first.properties = {"loss": {"a": Outcome.HOLDS, "b": Outcome.BROKEN}}
    second.properties = {"loss": {"a": Outcome.NOT_OFFERED, "b": Outcome.HOLDS}}
    for half, kept in ((first, 0), (second, 1)):
        half.kills = {c: dict(list(kills.items())[kept::2]) for c, kills in whole.kills.items()}
        half.add_trouble(Outcome.RAISED, "loss", "answers", "hard", "the same")
    one = Diagnosis([Named("looks like `one`", "why")])
    nothing = Diagnosis(otherwise="nothing is known")
    first.diagnoses = {"loss": one}
    second.diagnoses = {"block": nothing}
    first.merge(Results.of(second.values()))
    assert Counter(first.rows) == Counter(whole.rows)
    assert first.properties == {"loss": {"a": Outcome.NOT_OFFERED, "b": Outcome.BROKEN}}
    assert first.kills == whole.kills
    assert first.equivalents == whole.equivalents
    assert first.diagnoses == {"loss": one, "block": nothing}
    assert first.troubles == [Trouble(Outcome.RAISED, "loss", "answers", "hard", "the same")]


def test_what_is_written_is_read_again(tmp_path):
    results = wrong("attention", math.inf)
    results.add("loss", "answers", "hard", [verdict(math.nan, math.inf)])
    results.add_trouble(Outcome.BROKEN, "loss", "answers", "a test", "why")
    results.diagnoses = {"attention": Diagnosis([Named("looks like nothing", "why")])}
    written = report.write(results, tmp_path / "deep" / "down")
    assert [path.name for path in written] == ["report.json", "index.html"]
    values = json.loads(written[0].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values["schema"] == report.SCHEMA
    again = report.read(written[0])
    assert again.rows[:-1] == results.rows[:-1]
    assert math.isnan(again.rows[-1].error)
    assert replace(again, rows=[]) == replace(results, rows=[])
    assert report.table(again) == report.table(results)
    assert sorted(path.name for path in (tmp_path / "deep" / "down").iterdir()) == ["index.html", "report.json"]


@pytest.mark.parametrize("values", [{"schema": 0}, {}, []])
def test_another_schema_is_refused(tmp_path, values):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"report\.json: schema (0|None), expected 2"):
        report.read(path)


class Balanced(HTMLParser):
    """Every tag is closed by its own; the text is kept."""

    VOID = ("meta", "line", "circle", "polyline", "wbr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.tags = [], "", Counter()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, *_):
        self.tags[tag] += 1
        self.open += [tag] if tag not in self.VOID else []

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_every_component_every_mistake_and_nothing_from_elsewhere():
    page = suite_page.render(green())
    read = Balanced(page)
    for component in mistakes.COMPONENTS:
        known = mistakes.of(component)
        assert f"{component} {len(known)} of {len(known)} rejected" in read.text
        assert [m.name for m in known if f"{m.name}{m.why}seen: {m.seen}" not in read.text] == []
    assert read.tags["details"] == len(mistakes.COMPONENTS)
    assert read.tags["svg"] == 2
    assert "rms_norm: another_name" in read.text
    assert not re.search(r'points="[^"]*(nan|inf)', page)
    assert re.findall(r"<script|<link|<img|@import|url\(|src=|href=", page) == []
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_whose_error_a_number_is_and_no_chart_is_empty():
    results = wrong("rms_norm", 123456.0)
    results.depth = {"float32": [], "bfloat16": []}
    text = Balanced(suite_page.render(results)).text
    assert "✗ 1e5 ulp\ntransformers 1" in text
    assert "3 bitwise" in text
    assert "Error by layer" not in text


def test_the_page_begins_with_what_was_judged_when_and_with_which_versions():
    results = green()
    results.about = about(Path("docs/my_norm.py"), bitwise=False)
    title, how = re.search(r'<h1>(.*)</h1><p class="note">(.*)</p>', suite_page.render(results)).groups()
    assert title == "my_norm.py, component by component"
    assert re.match(
        r"docs/my_norm\.py, judged by budget, 20\d\d-\d\d-\d\d \d\d:\d\d UTC, llama_reference [\d.]+, torch", how
    )
    assert f", torch {torch.__version__}, transformers " in how
    results.about = {}  # a report of an earlier version
    assert "A Llama, component by component" in suite_page.render(results)


def test_on_a_phone_every_cell_of_the_table_has_its_heading_next_to_it():
    """There is room for one column: cells are stacked."""
    page = suite_page.render(green())
    (stacked,) = re.findall(r'<div class="stack">(.*?)</div>', page, re.DOTALL)
    assert stacked.count("<td") == stacked.count("data-heading=") == 5 * len(mistakes.COMPONENTS)
    assert re.search(r"@media \(max-width: 40rem\) \{\s*\.stack tr \{ display: block", page)


def test_the_page_escapes_whatever_it_quotes():
    results = green()
    results.about["implementation"] = HOSTILE
    results.add("loss", "answers", HOSTILE, [replace(verdict(99.0, bitwise=False), label=HOSTILE)])
    results.diagnoses["loss"] = Diagnosis([Named(HOSTILE, HOSTILE)])
    results.properties["loss"][HOSTILE] = Outcome.BROKEN
    results.kills["loss"][HOSTILE] = []
    results.equivalents.append((HOSTILE, HOSTILE, HOSTILE))
    results.depth[HOSTILE] = []
    results.add_trouble(Outcome.BROKEN, "loss", "answers", HOSTILE, HOSTILE)
    parts = html.table([HOSTILE], [html.row(HOSTILE, [html.cell(HOSTILE, title=HOSTILE, heading=HOSTILE)])])
    page = Balanced(suite_page.render(results) + parts)
    assert page.text.count(HOSTILE) >= 13
    assert "script" not in page.tags


def test_equivalent_mistakes_are_told_in_words_and_not_among_the_known():
    told = equivalents()
    assert all(component in mistakes.COMPONENTS and why for component, _, why in told)
    assert not {name for _, name, _ in told} & {known.name for c in mistakes.COMPONENTS for known in mistakes.of(c)}


def test_who_is_right_everywhere_and_lacks_gradients_is_told_nothing_of_budgets():
    """The words "not offered" have an "of" in them."""
    results = green()
    results.rows = [row for row in results.rows if row.section == ANSWERS]
    for component in mistakes.COMPONENTS:
        if component not in comparison.NO_GRADIENTS:
            results.add_trouble(
                Outcome.NOT_OFFERED, component, GRADIENTS, "a test", f"{Outcome.NOT_OFFERED}: parameters"
            )
    assert "not offered" in {cell.text for name in mistakes.COMPONENTS for cell in summary.cells(results, name)}
    assert notes.on_numbers(results) == []
    results.add("rms_norm", ANSWERS, "one group", [verdict(1.0, bitwise=False)])
    assert [about for about, _ in notes.on_numbers(results)] == ["in brackets", "oracle", "the budget"]


def block() -> str:
    page = ROOT / "docs" / "how_we_know.md"
    return page.read_text().split(command.BEGIN)[1].split(command.END)[0]


def test_the_table_of_the_book_is_of_this_suite():
    """A row for every component, and every mistake counted."""
    text = block()
    assert re.findall(r"^(\w+) +\d+ within", text, re.MULTILINE) == list(mistakes.COMPONENTS)
    for component in mistakes.COMPONENTS:
        count = len(mistakes.of(component))
        assert re.search(rf"^{component} .* {count}/{count}$", text, re.MULTILINE), f"{component}: run make report"
    assert f"{sum(len(mistakes.of(c)) for c in mistakes.COMPONENTS)} known mistakes" in " ".join(text.split())


def test_only_a_green_run_of_everything_gets_into_the_book(tmp_path):
    page, directory = tmp_path / "page.md", tmp_path / "report"
    page.write_text(f"before\n{command.BEGIN}\nold\n{command.END}\nafter\n")
    some = green()
    del some.kills["loss"]
    for results, code in ((some, 1), (wrong("loss", 99.0), 1), (green(), 0)):
        assert "\nold\n" in page.read_text()
        assert command.main([str(report.write(results, directory)[0]), str(page)]) == code
    text = page.read_text()
    assert text == f"before\n{command.BEGIN}\n{command.block(green())}\n{command.END}\nafter\n"
    assert command.main([str(directory / "report.json"), str(page)]) == 0
    assert page.read_text() == text


ADAPTER = """
from llama_reference import mistakes
BITWISE = True
(wrong,) = (known.implementation for known in mistakes.of("loss") if known.name == "labels_not_shifted")

def loss(logits, labels):
    return wrong.loss(logits, labels)

def sampling(*arguments, **knobs):
    raise RuntimeError("of no use")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *arguments]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # not as a worker
    return subprocess.run(line, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)


@pytest.mark.processes
def test_a_broken_adapter_is_told_what_it_looks_like_and_what_it_lacks(tmp_path):
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER)
    files = [f"tests/test_{name}.py" for name in ("loss", "sampling", "rms_norm")]
    chosen = "float32 and bit_for_bit and not Gradients"
    done = run("--implementation", str(adapter), "--report", str(tmp_path / "out"), "-k", chosen, *files)
    table = done.stdout.split("component by component")[1]
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "= FAILURES =" not in done.stdout
    assert len(done.stdout.splitlines()) < 40
    assert "\nWRONG: loss, sampling\n" in table
    assert re.search(r"^loss +WRONG 3 of 3, \S+ ulp +WRONG 3 of 3$", table, re.MULTILINE)
    assert "\nloss: looks like `labels_not_shifted` (these are its bits): a token is predicted from itself" in table
    assert re.search(r"^sampling +WRONG, 1 raise", table, re.MULTILINE)
    assert "raises with hard, torch.float32: RuntimeError: of no use" in table
    assert re.search(r"^rms_norm +not offered +not offered$", table, re.MULTILINE)
    assert "\nnot offered: build (rms_norm)\n" in table
    results = report.read(tmp_path / "out" / "report.json")
    assert [row.component for row in results.rows] == ["loss"] * 3
    assert (
        f"Failed tests ({sum(trouble.kind == Outcome.BROKEN for trouble in results.troubles)})"
        in Balanced((tmp_path / "out" / "index.html").read_text()).text
    )


def with_report(config: pytest.Config, directory: Path | None) -> SimpleNamespace:
    return SimpleNamespace(
        getoption=lambda name: directory if name == "report" else config.getoption(name),
        get_verbosity=config.get_verbosity,
    )


@pytest.mark.parametrize("directory", ["file", "file/below"])
def test_a_file_in_the_way_of_the_report_is_known_before_the_work(tmp_path, directory, pytestconfig):
    (tmp_path / "file").write_text("")
    with pytest.raises(pytest.UsageError, match=f"--report: {tmp_path / directory}: a file is in the way"):
        Collector(with_report(pytestconfig, tmp_path / directory), tmp_path, None)
    Collector(with_report(pytestconfig, tmp_path / "new" / "below"), tmp_path, None)


def test_a_failure_is_told_by_its_message_and_the_frames_of_the_adapter(tmp_path, pytestconfig):
    """Not by those of pytest, hypothesis and the suite; other tests keep pytest's traceback."""
    path = tmp_path / "adapter.py"
    path.write_text('def loss(logits, labels):\n    raise RuntimeError("of no use")\n')
    adapter = load(path)
    collector = Collector(with_report(pytestconfig, None), path, adapter)
    claim = next(item for item in items("loss") if item.claim is not None)
    (ask,) = Session(adapter, Results()).tests(claim).values()
    with pytest.raises(RuntimeError) as caught:
        ask()
    frame = f'  File "{path}", line 2, in loss\n    raise RuntimeError("of no use")\n'
    for properties, told in (([(SECTION, ("loss", "properties"))], frame + "RuntimeError: of no use"), ([], "long")):
        report = SimpleNamespace(failed=True, longrepr="long")
        asked = collector.pytest_runtest_makereport(
            SimpleNamespace(user_properties=properties), SimpleNamespace(excinfo=caught)
        )
        next(asked)
        with pytest.raises(StopIteration):
            asked.send(report)
        assert report.longrepr == told


def test_a_claim_that_does_not_hold_is_told_with_its_draws_and_what_it_asserts():
    session = Session(SimpleNamespace(loss=lambda logits, labels: logits.sum() * 0 + labels.sum()), Results())
    said = {}
    for item in items("loss"):
        if item.claim is not None:
            session.ask(item)
    for trouble in session.results.troubles:
        said[trouble.where.partition("[")[2].rstrip("]")] = trouble.message
    assert said["uniform_logits_cost_log_v"].startswith("uniform_logits_cost_log_v does not hold: off by ")
    assert re.match(r"\w+ does not hold for \d+.*: ", said["a_token_is_predicted_from_the_one_before"])
    assert not any("where False" in text or text.endswith(": ") for text in said.values())
