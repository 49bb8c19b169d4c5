# Everything from a fresh clone: `make book` and `make test` set up .venv themselves.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help env lint test smoke offline book sweep quality inversions doses alignment mediation patching uses laws twins remedies record bench clean

PYTHON ?= python3
BIN := .venv/bin
LOCKS := lib/requirements.lock lib/requirements-no-deps.lock
# Stamps carry a checksum of what they stand for: a changed lock asks for a stamp that is not there.
LOCKED := .venv/.locked-$(shell cat $(LOCKS) | cksum | cut -d' ' -f1)
READY := $(LOCKED)-$(shell cksum < lib/pyproject.toml | cut -d' ' -f1)
PIP := $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check
ENGINE := .venv-sweep/.locked-$(shell cksum < lib/requirements-sweep.lock | cut -d' ' -f1)
# A process for each core, with one thread: two threads wait for each other where cores are shared.
QUICK := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not notebooks" \
  --numprocesses logical --maxprocesses 4 --dist loadfile
SOURCES := lib tests notebooks book/_ext

help: ## list the targets
	@awk -F': .*## ' '/^[a-z]+:.* ## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

env: $(READY) ## create .venv from the lock, or renew it when the lock has changed

$(LOCKED): $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear --without-pip .venv
	$(PIP) install -q --progress-bar off -r lib/requirements.lock
	$(PIP) install -q --progress-bar off --no-deps --no-build-isolation -r lib/requirements-no-deps.lock
	@touch $@

$(READY): $(LOCKED) lib/pyproject.toml
	$(PIP) install -q --no-deps --no-build-isolation -e lib
	@touch $@

$(ENGINE): lib/requirements-sweep.lock
	$(PYTHON) -m venv --clear --without-pip .venv-sweep
	$(PYTHON) -m pip --python .venv-sweep/bin/python --disable-pip-version-check install -q \
	  --progress-bar off -r lib/requirements-sweep.lock
	@touch $@

book: $(READY) ## execute the notebooks that are out of date and build build/book/index.html
	@$(BIN)/t2i-lens book

sweep: $(READY) $(ENGINE) ## run a grid of notebooks: CONFIG=notebooks/sweeps/norms.yaml; clusters: notebooks/Snakefile
	@$(BIN)/t2i-lens sweep $(CONFIG) $(ARGS)

test: $(READY) $(ENGINE) ## run all tests; executes the notebooks that are out of date and compares their claims
	@status=0; $(QUICK) || status=$$?; $(BIN)/python -m pytest -m notebooks || status=$$?; exit $$status

smoke: $(READY) ## run the quick tests only
	$(QUICK)

offline: $(READY) ## run the quick tests without a network
	tests/offline/run.sh $(BIN)/python -m "not notebooks"

lint: $(READY) ## check style, import order of the modules, and that notebooks have no outputs
	$(BIN)/ruff check --config lib/pyproject.toml $(SOURCES)
	$(BIN)/ruff format --check --config lib/pyproject.toml $(SOURCES)
	cd lib && ../$(BIN)/lint-imports --no-cache --config pyproject.toml
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

quality: $(READY) ## measure the toybox: data/models/toybox/quality.json and a contact sheet
	$(BIN)/python -m t2i_lens.toybox.quality

inversions: $(READY) ## train the placeholder tokens that are missing or belong to another model
	@$(BIN)/t2i-lens invert

doses: $(READY) ## draw every learned token at several steps of its training; prints a time estimate first
	@$(BIN)/t2i-lens doses

alignment: $(READY) ## draw prompts with test-time optimisation and its baselines; prints a time estimate first
	@$(BIN)/t2i-lens alignment

uses: $(READY) ## draw edits, unwanted words and fine-tuned layers; prints a time estimate first
	@$(BIN)/t2i-lens uses

patching: $(READY) ## draw pairs of prompts with patched and injected layers; prints a time estimate first
	@$(BIN)/t2i-lens patching

mediation: $(READY) ## exchange a token for its class word along one path at a time; prints a time estimate first
	@$(BIN)/t2i-lens mediation

laws: $(READY) ## train and draw the tokens that test the law of the norm; prints a time estimate first
	@$(BIN)/t2i-lens laws

remedies: $(READY) ## train and draw every way of teaching and every remedy; prints a time estimate first
	@$(BIN)/t2i-lens remedies

twins: $(READY) ## train twins of the toybox and what their tokens cost; prints a time estimate first
	@$(BIN)/t2i-lens twins

bench: $(READY) ## time sampling, textual inversion and recording; run nothing else at the same time
	cd lib && ../$(BIN)/python -m benchmarks.bench
	cd lib && ../$(BIN)/python -m benchmarks.bench_capture
	cd lib && ../$(BIN)/python -m benchmarks.attention_trials

record: $(READY) ## make the measured claims the records that later runs are compared with
	@$(BIN)/t2i-lens record

clean: ## delete generated files, but not the environment
	rm -rf build/runs build/trials build/results build/failed build/tmp build/book build/book.json \
	  build/book.log build/matplotlib book/chapters book/scoreboard.md \
	  book/profiles.md book/capture.md book/published_numbers.md book/generated book/toybox book/_static/mathjax
