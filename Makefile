PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow test-all lint

demo: $(VENV)/installed
	$(BIN)/particles simulate --target 8-gaussians --particles 500 --target-size 500 --steps 400 --decay 200 --seed 0 --output runs/demo --overwrite
	@echo "Now look at runs/demo/figure.png"

test: $(VENV)/installed
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-slow: $(VENV)/installed
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m slow

test-all: test test-slow

lint: $(VENV)/linters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch goes first and alone: otherwise another package may ask for a build with gigabytes of CUDA.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[lint]'
	touch $@
