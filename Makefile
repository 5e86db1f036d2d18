# make train · make test · make bench · make lint     (each builds .venv first when it is missing or stale)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test bench lint

train: .venv/ready
	$(BIN)/python -m llama_scratch.train

test: .venv/ready
	$(BIN)/pytest

bench: .venv/ready
	$(BIN)/pytest --benchmark-only

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
