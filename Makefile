# Everything is set up by `make demo` and `make test`; nothing else is needed first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The start of a command is measured and felt: compiled modules belong to a set-up.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow bench fuzz mended-unicorn clean

demo: $(VENV)/.installed
	$(BIN)/sipl demo

test: $(VENV)/.test-installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.test-installed
	$(BIN)/python -m pytest -n 2 -m slow

bench: $(VENV)/.test-installed
	$(BIN)/python bench/bench.py

# A faster libunicorn from its own source distribution, in build/mended-unicorn; nothing uses it unless LIBUNICORN_PATH says so.
mended-unicorn: build/mended-unicorn/.built

build/mended-unicorn/.built: tools/mended-unicorn/build.py | $(VENV)/.created
	$(BIN)/python tools/mended-unicorn/build.py
	touch $@

fuzz: $(VENV)/.fuzz-installed
	$(BIN)/python fuzz/run.py

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.installed

# Coverage-guided where there is a build of atheris for this Python; the driver says which way it goes.
$(VENV)/.fuzz-installed: $(VENV)/.test-installed
	$(BIN)/python -m pip install --quiet --editable '.[test,fuzz]' || true
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
