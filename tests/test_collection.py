"""What a run of pytest runs: benchmarks only when asked for, and never nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # not as a worker
    return subprocess.run(line, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)


def test_a_plain_run_collects_no_benchmark():
    listed = run("--collect-only", "tests/test_loss.py", "benchmarks").stdout
    assert "tests/test_loss.py::" in listed
    assert "bench_" not in listed


def test_benchmarking_nothing_fails():
    done = run("--benchmark-only", "tests/test_loss.py")
    assert "skipped" in done.stdout
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
