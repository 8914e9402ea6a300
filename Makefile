# The two commands: `make demo` and `make test`. Each makes its own environment in .venv first.
#
#   make demo                     the whole path on the synthetic town; writes runs/demo/report.html
#   make demo DATA=FOLDER         the same on your own data: a folder with a map bag and a query bag, or a place set
#   make test                     all tests, reduced counts
#   make soak                     the same tests in full: long loops, many kills, many mutations
#   make tables                   measure engines and maps again and renew their tables in docs/benchmarks.md
#   make lint                     ruff
#   make clean                    remove .venv and runs

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
OUT ?= runs/demo
DATA ?=
.PHONY: help install demo test soak tables lint clean
help:
	@sed -n 's/^#   \(make .*\)/  \1/p' Makefile

$(INSTALLED): setup.py scripts/check_machine.py
	@extras=$$($(PYTHON) scripts/check_machine.py); \
	started=$$SECONDS; \
	echo "Installing into $(VENV): about 3 GB to download, 7 GB on disk, some minutes."; \
	$(PYTHON) -m venv $(VENV); \
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip; \
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$$extras]"; \
	touch $(INSTALLED); \
	echo "Installed in $$((SECONDS - started)) s, $$(du -sh $(VENV) | cut -f1) on disk."

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(RUN) -m training.demo --out '$(OUT)' $(if $(DATA),--data '$(DATA)')

test: $(INSTALLED)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m pytest

soak: $(INSTALLED)
	@VGSSL_SOAK=1 $(RUN) -m pytest

tables: $(INSTALLED)
	@for name in embed pipeline search memory node_latency; do $(RUN) benchmarks/$$name.py --docs docs/benchmarks.md; done

lint: $(INSTALLED)
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

clean:
	rm -rf $(VENV) runs
