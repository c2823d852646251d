# Two commands: `make demo` judges real images, `make test` checks everything. Each makes its own virtual environment.
PYTHON ?= python3
PYTHON_OLDEST ?= python3.10
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
EXAMPLES ?= 100000
KILLS ?= 500
# A process for every core, but not more than memory has room for. Each computes with one thread (tests/conftest.py).
PYTEST := -m pytest --numprocesses auto --maxprocesses 8
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test style lint package oldest fresh site fuzz chaos clean

demo: $(VENV)/.installed
	$(BIN)/tanl demo

test: $(VENV)/.installed-test
	$(BIN)/python $(PYTEST)
	$(MAKE) style

style: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.check_types

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel, as users get it: made from the source archive, looked through, and used in an environment of its own.
package: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m tools.check_package dist

# The oldest releases that pyproject.toml allows, all at once.
oldest:
	test -d $(OLDEST) || $(PYTHON_OLDEST) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
		--editable '.[test]' 'torchvision>=0.21'
	$(OLDEST)/bin/python $(PYTEST)

# `make test` on a Debian that has nothing else (needs root and debootstrap).
fresh:
	tools/fresh_machine.sh

# The documentation site, into build/site.
site: $(VENV)/.installed-test
	PYTHONPATH=. $(BIN)/mkdocs build --strict

# Long runs of what the tests do briefly: unusable input of every kind, and processes killed at any moment.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tools.fuzz --examples $(EXAMPLES)

chaos: $(VENV)/.installed-test
	$(BIN)/python -m tools.chaos --kills $(KILLS)

SOURCES := setup.py pyproject.toml MANIFEST.in $(wildcard tanl/kernels/native/*.cpp tanl/kernels/native/*.inc)

$(VENV)/.installed: $(SOURCES)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(SOURCES) tools/constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint tools/constraints.txt --editable '.[test,style]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
