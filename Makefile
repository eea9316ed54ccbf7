# Two commands do everything: `make reproduce` and `make test`. Each sets up .venv first if that was not done yet.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PUBLIC := reproduce.evaluation reproduce.neighbours reproduce.clustering reproduce.stage reproduce.artifacts \
	reproduce.dataset reproduce.figures reproduce.metrics reproduce.data.sources reproduce.data.sampling \
	reproduce.papers.tables reproduce.papers.records reproduce.papers.frames

.PHONY: help setup reproduce test lint smoke api clean
help:
	@echo "make reproduce   set up, draw stand-in data, run a published table end to end, write the report"
	@echo "make test        set up, run the tests"
	@echo "make setup       set up .venv and nothing else"
	@echo "make lint        style, types, import rules, spelling"
	@echo "make smoke       every case of every table, a few seconds each"
	@echo "make api         API pages of the public modules, in build/api"
	@echo "make clean       remove .venv and build"

setup: $(READY)
	@echo "Ready. To use the commands: . $(BIN)/activate"

reproduce: $(READY)
	@echo "Reproducing MSPLR Table 3, Market-1501 to DukeMTMC-reID, at the scale 'small': from a source model"
	@echo "to the full method, its five rows with three rounds of labelling instead of ten, on drawn stand-in"
	@echo "data, from images on disk to a report. This takes about five minutes on two cores; stop it, and it goes on from there."
	@$(BIN)/pytest suites/ -k "msplr and table3 and m2d" --scale small --seeds 1 --rounds 3 $(ARGS)

test: $(READY)
	@$(BIN)/pytest tests/ -n auto $(ARGS)

smoke: $(READY)
	@$(BIN)/pytest suites/ --scale smoke --out build/smoke $(ARGS)

api: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[api]'
	@$(BIN)/python -m pdoc --docformat google --output-directory build/api $(PUBLIC)

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/typos
	@$(BIN)/lint-imports
	@$(BIN)/mypy

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: type make PYTHON=/path/to/python3.11")'
	@echo "Setting up .venv (once; PyTorch is a large download) ..."
	@$(PYTHON) -m venv .venv
	@rm -rf *.egg-info # an old one would hide what this version registers
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv build
