# Everything runs in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check lint types wheel docs site mutants supported soak clean

demo: .venv/installed
	$(BIN)/trifecta train --recipe demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# The rest of the large matrices: the same code, reached by other names.
test-slow: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

check: lint types wheel test test-slow

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python benchmarks/render.py --check

types: .venv/installed
	$(BIN)/mypy

# The built package alone, outside the source tree, has all that it needs: its commands, its pages.
wheel: .venv/installed
	rm -rf build/installed dist
	$(BIN)/python -m build --sdist --wheel --no-isolation --outdir dist . >/dev/null
	tar -tf dist/*.tar.gz | grep -q CHANGELOG.md && tar -tf dist/*.tar.gz | grep -q CITATION.cff
	$(BIN)/pip install --quiet --no-deps --target build/installed dist/*.whl
	test -f build/installed/trifecta/py.typed
	cd build && PYTHONPATH=installed ../$(BIN)/python -P -c \
		"import trifecta; assert 'build/installed' in trifecta.__file__, trifecta.__file__"
	cd build && PYTHONPATH=$(CURDIR)/build/installed ../$(BIN)/python -P -m pytest -q -m "not slow" \
		-p no:cacheprovider ../tests/cli/test_cli.py ../tests/report

# Tables in README.md and docs/ from the files in benchmarks/results/.
docs: .venv/installed
	$(BIN)/python benchmarks/render.py

# The documentation site, in build/site; a broken reference is an error.
site: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site
	grep -q -e '--epochs' build/site/reference/command-line.html && ! grep -q '–set' build/site/reference/command-line.html

# Changes of the core that no test notices. The whole of it has not been timed.
mutants: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py benchmarks/results/mutants_$$(date -u +%F).json

# Kills, long runs and wrong input, far more of each than the tests have; takes long.
soak: .venv/installed
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py benchmarks/results/soak_$$(date -u +%F).json --processes 2

# The lowest versions of pyproject.toml, and every Python that is here.
supported:
	.ci/supported

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trifecta needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist runs .mypy_cache .pytest_cache .ruff_cache
