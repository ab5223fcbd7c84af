# make example        install into .venv and run the documented simulation; no Slurm needed
# make example-scan   24 Grad-Shafranov equilibria with FreeGS, as a table and a picture
# make test           the whole suite, on a real Slurm of four nodes on this machine
# make test-slurms    tests/slurm and tests/simulations on Slurm 24.11 and 26.05, in root file systems
# make check          lint, types and unit tests, in under a minute
# make docs           the pages of docs/ as HTML, in docs/_build
# make test-newest    unit tests and simulations with the newest release of every package
# make test-oldest    the same with the lower bounds of setup.cfg
# make lock           choose the versions in constraints.txt anew: all but test-newest and test-oldest
#                     install these
#
# SLURM=no leaves out the tests that need Slurm.
PYTHON ?= python3
SLURM ?= yes
BIN := .venv/bin
# For the packages, and for setuptools where pip builds ours: pip before 25.3 reads the first there too
LOCKED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
INSTALL := $(LOCKED) $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST_OPTIONS := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: example example-scan test test-slurms test-slurms-short test-newest test-oldest check docs lock
.PHONY: slurm container mpi clean
.DELETE_ON_ERROR:

example: .venv/installed
	cd docs/examples/dask && "$(CURDIR)/$(BIN)/ips.py" --config dask_sim.config --platform platform.conf
	@echo "simulation log: $$(ls -t docs/examples/dask/dask_sim/simulation_log/*.json | head -n 1)"

example-scan: .venv/installed-scan
	cd docs/examples/equilibrium_scan && "$(CURDIR)/$(BIN)/ips.py" --config equilibrium_scan.config --nodes 2
	@echo "simulation log: $$(ls -t docs/examples/equilibrium_scan/equilibrium_scan/simulation_log/*.json | head -n 1)"

test: .venv/installed-test slurm container mpi
	$(BIN)/python -m pytest --slurm=$(SLURM) --durations=10 $(PYTEST_OPTIONS)

# Debian 13 (Slurm 24.11, Python 3.13) and Debian sid (Slurm 26.05, Python 3.14); needs root.
# SLURMS="here trixie sid" also runs them with the Slurm and Python of this machine.
SLURMS ?= trixie sid
test-slurms: $(if $(filter here,$(SLURMS)),.venv/installed-test slurm,.venv/bin/python)
	$(BIN)/python tools/test-slurms $(SLURMS)

# the tests with the marker `versions`, in at most ten minutes
test-slurms-short: .venv/bin/python
	$(BIN)/python tools/test-slurms --short

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest tests/unit --quiet

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build
	@echo "docs/_build/index.html"

test-newest test-oldest: test-%:
	@tools/other-venv $* $(PYTHON)
	.venv-$*/bin/python -m pytest tests/unit tests/simulations $(PYTEST_OPTIONS)
	.venv-$*/bin/sphinx-build -W --keep-going --quiet docs docs/_build

# One file for all Pythons, with markers where the versions differ
lock:
	@tools/choose-versions $(PYTHON) constraints.txt --universal --python-version 3.11 --upgrade

# Slurm's own packages, for the tests' private Slurm; no service of theirs is used
slurm:
	@tools/slurm-packages $(SLURM) $(BIN)/python

# Charliecloud, and a root file system with this dask for it
container: .venv/installed-test
	@tools/container-rootfs $(SLURM) $(BIN)/python

# Open MPI and MPICH, for the tests of parallel tasks
mpi: .venv/installed-test
	@tools/mpi-programs $(SLURM) $(BIN)/python

.venv/bin/python:
	@tools/make-venv $(PYTHON) .venv

.venv/installed: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/installed-test: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test,scan]'
	@touch $@

.venv/installed-scan: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable '.[scan]'
	@touch $@

.venv/installed-docs: .venv/bin/python setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv .venv-newest .venv-oldest build *.egg-info .pytest_cache .mypy_cache .ruff_cache
