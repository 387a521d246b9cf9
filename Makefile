# The commands a developer types. All they need beforehand is make and a Python of 3.10 or newer.
#
#   make demo        environment, base install, then the embedded model on real images
#   make test        environment, full install, then the fast, offline test suite
#   make test-slow   the tests that take longer than a few seconds each
#   make test-browser  the pages in a headless Chromium (Debian: apt install chromium-driver npm)
#   make test-engines  DeepSpeed, Ray and OpenVINO, in an environment of their own on top of the other one
#   make test-lowest  the wheel with only its dependencies, then the fast tests and some slow ones, on the lowest versions that are supported
#   make release-check  build wheel and source distribution, and use them with only their dependencies
#   make parity      replay the recordings of the original (folder in LAVIS_GOLDENS, default tests/goldens)
#   make common      transformers' own common tests over all classes (its source distribution in TRANSFORMERS_SOURCE)
#   make check       formatting, lint and types
#   make docs        the documentation with the API reference, in build/docs; warnings are errors
#   make docs-serve  the same on a local port
#   make docs-pictures  the pictures of the documentation anew; needs what test-browser needs
#   make venv        environment with the full install, and nothing else

VENV ?= .venv
PYTHON ?= $(shell for candidate in python3.11 python3 python3.12 python3.13 python3.14 python3.10 python; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$candidate; exit; fi; \
	done)
WORKERS ?= 2
PYTEST_FLAGS ?= -n $(WORKERS)

BIN := $(VENV)/bin
STAMP_CREATED := $(VENV)/.created
STAMP_BASE := $(VENV)/.installed-base
STAMP_DEV := $(VENV)/.installed-dev
STAMP_DOCS := $(VENV)/.installed-docs
STAMP_RELEASE := $(VENV)/.installed-release
# Packages that change how others behave, or that few need: not in the environment of the other tests.
ENGINES := $(VENV)/engines
STAMP_ENGINES := $(ENGINES)/.installed
PAGE := $(VENV)/page
STAMP_PAGE := $(PAGE)/.installed
# The lowest versions that pyproject.toml allows, on the lowest Python that is found: tests/release/lowest.txt.
LOWEST := $(VENV)/lowest
STAMP_LOWEST := $(LOWEST)/.installed
# Tests on them: all fast ones, and of the slow ones what goes to a Hub and comes back, and conversion by name.
LOWEST_TESTS ?= tests
LOWEST_SLOW_TESTS ?= $(addprefix tests/hub/test_,$(addsuffix .py,commands interruptions revisions trainers)) tests/conversion/test_cards.py tests/conversion/test_zoo_conversion.py \
	tests/conversion/test_zoo_downloads.py
LOWEST_PYTHON ?= $(firstword $(shell for candidate in python3.10 $(HOME)/.pyenv/versions/3.10.*/bin/python; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; then echo $$candidate; fi; \
	done) $(PYTHON))

# A test that spawns one thread per core in each of several workers is slower than one thread each.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-browser test-engines test-lowest release-check parity common check docs docs-serve docs-pictures format clean

help:
	@sed -n 's/^#   //p' Makefile

$(STAMP_CREATED):
	@test -n "$(PYTHON)" || { echo "No Python of 3.10 or newer found; install one or call make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(STAMP_BASE): $(STAMP_CREATED) pyproject.toml setup.cfg
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMP_DEV): $(STAMP_BASE)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(STAMP_DOCS): $(STAMP_BASE)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

# Makes the packages of the other environment visible in one of its own, whose packages come first.
define on-top-of-the-other-environment
$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth"
endef

$(STAMP_ENGINES): $(STAMP_DEV)
	$(BIN)/python -m venv $(ENGINES)
	$(call on-top-of-the-other-environment,$(ENGINES))
	$(ENGINES)/bin/python -m pip install --quiet 'deepspeed>=0.19' 'ray[train,data]>=2.50' 'openvino>=2026.4'
	@touch $@

# gradio holds Pillow back.
$(STAMP_PAGE): $(STAMP_DEV)
	$(BIN)/python -m venv $(PAGE)
	$(call on-top-of-the-other-environment,$(PAGE))
	$(PAGE)/bin/python -m pip install --quiet 'gradio>=6.31' 'selenium>=4.30'
	@touch $@

$(STAMP_RELEASE): $(STAMP_DEV)
	$(BIN)/python -m pip install --quiet --editable '.[release]'
	@touch $@

# The wheel first, with nothing but its dependencies; then the extras that the tests need, and the tests of the checkout.
$(STAMP_LOWEST): $(STAMP_RELEASE) tests/release/lowest.txt
	$(BIN)/python -m tests.release.check_release build/lowest --environment $(LOWEST) --python $(LOWEST_PYTHON) \
		--constraint tests/release/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint tests/release/lowest.txt pytest pytest-xdist \
		--editable '.[train,video,retrieval]'
	@touch $@

venv: $(STAMP_DEV)

demo: $(STAMP_BASE)
	$(BIN)/modeling-lavis demo

test: $(STAMP_DEV)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slow: $(STAMP_DEV)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "slow and not browser"

# In one process: its tests share servers and browsers.
test-browser: $(STAMP_PAGE)
	$(PAGE)/bin/python -m pytest -m "slow or not slow" tests/demo

# In one process after the other: each starts two.
test-engines: $(STAMP_ENGINES)
	$(ENGINES)/bin/python -m pytest -m "slow or not slow" tests/training/test_deepspeed.py \
		tests/examples/test_launch_ray.py tests/jobs/test_ray_engine.py
	$(ENGINES)/bin/python -m pytest -m "slow or not slow" tests/export -k openvino

test-lowest: $(STAMP_LOWEST)
	$(LOWEST)/bin/python -m pytest $(PYTEST_FLAGS) $(LOWEST_TESTS)
	$(LOWEST)/bin/python -m pytest $(PYTEST_FLAGS) -m slow $(LOWEST_SLOW_TESTS)

release-check: $(STAMP_RELEASE)
	$(BIN)/python -m tests.release.check_release build/release

parity: $(STAMP_DEV)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/parity

common: $(STAMP_DEV)
	$(BIN)/python tests/common/run_common_tests.py -n $(WORKERS)

check: $(STAMP_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy modeling_lavis

# Docstrings are read from the imported package, which must not reach for the network.
docs: export HF_HUB_OFFLINE := 1
docs: export PYTHONPATH := .
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP_DOCS)
	$(BIN)/python docs/tools/stage.py build/docs-source
	$(BIN)/mkdocs build --strict
	@echo "The documentation is in build/docs/index.html"

docs-serve: docs
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

docs-pictures: $(STAMP_PAGE)
	$(PAGE)/bin/python -m docs.tools.pictures

format: $(STAMP_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
