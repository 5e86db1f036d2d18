# make train · test · test-processes · test-thorough · mutants · report · bench · docs · lint     (each builds .venv first when missing or stale)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-processes test-thorough mutants report bench docs lint

train: .venv/ready
	$(BIN)/python -m llama_scratch.train

test: .venv/ready
	$(BIN)/pytest

# What programs do: the installed kit, every printed command, runs that are killed, teams of processes
test-processes: .venv/ready
	$(BIN)/pytest -m processes

# 20 times the examples, and every false-alarm draw, planted mistake and fuzzed file
test-thorough: .venv/ready
	$(BIN)/pytest -m "" --hypothesis-profile=thorough

# Each small change to the model's files, one at a time: which of them does no test notice?
mutants: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(BIN)/mutmut run > mutants.log
	$(BIN)/python tests/survivors.py

# Some 17 minutes on two cores; results as JSON, and pictures drawn from them
bench: .venv/ready
	@mkdir -p benchmarks/results
	$(BIN)/pytest --benchmark-only --benchmark-json=benchmarks/results/latest.json
	$(BIN)/python -m benchmarks.plots benchmarks/results/latest.json benchmarks/results

# The suite on this project: report/index.html to look at, report/report.json, and the table of the book. (That the
# book's table is up to date is not asked of the run that it is made from.)
report: .venv/ready
	$(BIN)/pytest --report report --deselect tests/test_report.py::test_the_table_of_the_book_is_of_this_suite
	$(BIN)/python -m llama_reference.report report/report.json docs/how_we_know.md

# The book: figures drawn from the code, the notebook run, and the site to look at: site/index.html
docs: export TRANSFORMERS_VERBOSITY = error
docs: .venv/docs-ready
	$(BIN)/python -m docs.drawing
	$(BIN)/python -m docs.examples
	$(BIN)/python -m docs.notebook
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs site
	@echo "open site/index.html"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Built anew whenever what it is made from changes; the mark is set last, so an interrupted build starts over.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=..." if v < (3, 11) else 0)'
	@echo "Setting up .venv: a minute or two"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot,test,lint]'
	@touch $@

.venv/docs-ready: .venv/ready
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
