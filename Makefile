# `make demo`: from nothing to a trained model.   `make test`: the tests.   `make help`: the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes, each a gigabyte or three; a file's tests stay together, and share what they trained.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile
# With tests that need the references of [parity], or [beam].
EXTRAS := tests/weights/test_huggingface.py tests/weights/test_videoprism_parity.py tests/models/test_probe.py \
	tests/test_prepare_scale.py

.PHONY: help install demo test test-slow test-colabs colabs lint clean

help:
	@echo 'make install   make $(VENV) with vjax and its pinned dependencies'
	@echo 'make demo      render, prepare, train, evaluate and predict under runs/demo'
	@echo 'make test      the fast tests'
	@echo 'make test-slow the slow tests, parity with PyTorch references, Apache Beam'
	@echo 'make test-colabs the notebooks of colabs/, top to bottom; make colabs writes their outputs anew'
	@echo 'make lint      ruff'
	@echo 'make clean     remove $(VENV) and runs/demo'

# The stamps are renewed when the dependencies change.
$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; run make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/installed-extras: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity,beam]'
	@touch $@

$(VENV)/installed-colab: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[colab]'
	@touch $@

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/python -m vjax.demo --out=runs/demo

test: $(VENV)/installed-test
	$(PYTEST)

test-slow: $(VENV)/installed-extras
	$(PYTEST) -m slow
	$(PYTEST) $(EXTRAS)

# One after the other: each takes all processors. Without what tests tell XLA.
test-colabs: $(VENV)/installed-colab
	env -u XLA_FLAGS $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 colabs/*.ipynb

colabs: $(VENV)/installed-colab
	$(BIN)/python -m jupytext --to ipynb --update colabs/*.py
	env -u XLA_FLAGS $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False colabs/*.ipynb
	$(BIN)/python -m nbconvert --to notebook --inplace --coalesce-streams colabs/*.ipynb

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) runs/demo
