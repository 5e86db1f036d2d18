"""`llama-reference check` and `pytest --implementation` find out the same about the same adapter."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_reference import mistakes
from llama_reference.report.results import BY_BUDGET, Diagnosis, Named, Results
from llama_reference.standard import oracle
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.plan import items
from llama_reference.suite.session import Session
from llama_reference.suite.trouble import NoVerdict
from tests.both_commands import differences
from tests.profiles import is_thorough

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
QUICK = ("rms_norm", "swiglu", "loss")  # components that are judged in a second or two
KNOWN = [known for name in mistakes.COMPONENTS for known in mistakes.of(name) if is_thorough() or name in QUICK]
SAMPLE = random.Random(17).sample(KNOWN, 30 if is_thorough() else 2)
WHOLE = ("ours", "huggingface", "fast") if is_thorough() else ("huggingface",)
ADAPTER = """
from llama_reference import mistakes

(wrong,) = (known.implementation for known in mistakes.of({component!r}) if known.name == {name!r})
globals().update({{name: getattr(wrong, name) for name in dir(wrong) if not name.startswith("_")}})
"""


def test_they_agree(tmp_path):
    """On the norm of the README, on whole models, on known mistakes."""
    jobs = [(str(ROOT / "docs" / "my_norm.py"), ["rms_norm"])]
    components = mistakes.COMPONENTS if is_thorough() else ("rms_norm", "loss")
    jobs += [(str(ROOT / "tests" / "adapters" / f"{name}.py"), components) for name in WHOLE]
    for known in SAMPLE:
        adapter = tmp_path / f"{known.component}-{known.name}.py"
        adapter.write_text(ADAPTER.format(component=known.component, name=known.name))
        jobs.append((str(adapter), [known.component]))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    line = [sys.executable, "-m", "tests.both_commands", str(tmp_path / "jobs.json")]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(line, cwd=ROOT, env=alone, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert [text for text in said if not text.endswith(": the same")] == []
    assert len(said) == len(jobs), done.stderr
    assert done.returncode == 0


class Noisy:
    """A loss with random numbers in it."""

    def loss(self, logits, labels):
        return oracle.loss(logits, labels) + torch.rand(())


def test_random_answers_are_the_same_in_every_order():
    """Or the processes of `check`, and workers of pytest, would judge other answers."""
    rows = []
    for _ in range(2):
        session = Session(Noisy(), Results())
        with pytest.raises(NoVerdict) as refused:  # which answers it saw, it says
            session.compare("loss", "hard", torch.float32)
        before = torch.get_rng_state()
        session.ask(next(item for item in items("loss") if item.claim is not None))
        assert torch.equal(torch.get_rng_state(), before)
        rows.append((str(refused.value), session.results.troubles))
        torch.rand(3)
    assert rows[0] == rows[1]


def found(status: int = 0, bitwise: bool = True) -> tuple[int, Results]:
    results = Results({"judged": BY_BUDGET, "time": "now"}, properties={"loss": {"it_is_so": Outcome.HOLDS}})
    results.rows = []
    results.diagnoses = {} if bitwise else {"loss": Diagnosis([Named("looks like `that`", "why")])}
    return status, results


@pytest.mark.parametrize(
    ("other", "named"), [(found(), []), (found(status=1), ["exit status"]), (found(bitwise=False), ["diagnoses"])]
)
def test_a_difference_is_seen(other, named):
    assert [text.partition(":")[0] for text in differences(found(), other)] == named


def test_the_name_of_a_test_and_its_message_are_compared_and_its_folder_is_not():
    first, second, third = found(), found(), found()
    where = "::TestAnswers::test_equals_transformers_bit_for_bit[hard]"
    first[1].add_trouble(Outcome.BROKEN, "loss", "answers", f"test_loss.py{where}", "why")
    second[1].add_trouble(Outcome.BROKEN, "loss", "answers", f"site-packages/suite/test_loss.py{where}", "why")
    third[1].add_trouble(Outcome.BROKEN, "loss", "answers", f"test_loss.py{where}", "another reason")
    assert differences(first, second) == []
    assert len(differences(first, third)) == 1
