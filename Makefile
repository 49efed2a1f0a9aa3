# Needs python3 >= 3.11 with venv, and make; uv, where it is there, makes it quicker. Everything is installed in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-system env lint slurm-up slurm-down
.NOTPARALLEL:

demo: .venv/.cpu
	@$(BIN)/dinov2lab run ablations/curation_vs_uncurated.yaml
	@echo
	@echo "The report:    $(CURDIR)/reports/curation_vs_uncurated/index.html"
	@echo "All the runs:  $(BIN)/dinov2lab ui"

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not system"

test-system: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m system -rs --durations=30

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: .venv/.dev

# A Slurm of two nodes on this machine, of one's own: it says which variable makes sbatch and dinov2lab find it.
slurm-up:
	@tests/slurm/cluster install
	@tests/slurm/cluster up

slurm-down:
	@tests/slurm/cluster down

.venv/.cpu: EXTRAS := cpu
.venv/.dev: EXTRAS := cpu,dev

# The interpreter itself, not a shim in front of it, goes into the environment; a shim of uv may stand for nothing.
.venv/.cpu .venv/.dev: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dinov2lab needs Python 3.11 or newer; '$(PYTHON)' is not. Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@python=$$($(PYTHON) -c 'import sys; print(sys.executable)') && \
	if uv --version >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$$python" .venv && \
	  uv pip install --python $(BIN)/python --compile-bytecode --editable '.[$(EXTRAS)]'; \
	else \
	  "$$python" -m venv .venv && \
	  $(BIN)/python -m pip install --disable-pip-version-check --editable '.[$(EXTRAS)]'; \
	fi
	@touch $@
