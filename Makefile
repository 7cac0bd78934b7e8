# `make` alone lists the targets. PYTHON is the system's Python that makes the environments.
PYTHON ?= python3
BIN := .venv/bin

# tests at once, one more than cores, because many wait for processes of their own; each takes up to 6 GB
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

DATA ?=
TEST ?=
SAMPLE ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-minimal demo demo-real test test-full check bench results docs clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup:  ## .venv with the pins for this machine; skipped when nothing changed
	@$(PYTHON) scripts/setup.py

setup-minimal:
	@$(PYTHON) scripts/setup.py --minimal

ifeq ($(strip $(DATA)$(TEST)$(SAMPLE)),)
demo: setup  ## the whole pipeline on synthetic battles; with DATA=F TEST=F SAMPLE=F, on your own files
	$(BIN)/sft-judge run recipes/demo/pipeline.yaml --jobs 2
else
demo: demo-files setup
	$(BIN)/sft-judge run recipes/demo/files.yaml --set data='$(DATA)' --set test='$(TEST)' --set sample='$(SAMPLE)'
endif

demo-real: setup  ## a small pretrained model on people's votes, in an hour; VOTES=F or SFT_JUDGE_DATA, else from the hub
	$(BIN)/python scripts/demo_real.py $(if $(VOTES),--votes '$(VOTES)') $(ARGS)

.PHONY: demo-files
demo-files:
	@$(if $(and $(DATA),$(TEST),$(SAMPLE)),:,echo "make demo: DATA, TEST and SAMPLE go together; missing: $(if $(DATA),,DATA )$(if $(TEST),,TEST )$(if $(SAMPLE),,SAMPLE )- make demo DATA=train.csv TEST=test.csv SAMPLE=sample_submission.csv" >&2; exit 2)

check: setup  ## ruff and the unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m "unit and not full"

test: setup setup-minimal  ## everything but the full matrix; what CI runs
	SFT_JUDGE_MINIMAL_PYTHON=.venv-minimal/bin/python $(PYTEST) -m "not full"

test-full: setup setup-minimal  ## every test; again after a stop, those that have not passed at this commit
	SFT_JUDGE_MINIMAL_PYTHON=.venv-minimal/bin/python $(PYTEST) --resume

bench: setup  ## ratios against what they are held to; also written to runs/bench.json
	$(BIN)/python scripts/bench.py

results: setup  ## every figure of docs/results/ again, and which are outside their old interval
	$(BIN)/python scripts/results.py

docs: setup  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:  ## caches and builds; the environments and runs/ stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find sft_judge tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
