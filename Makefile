# Everything sets itself up in .venv; nothing but Python 3.10+, pip and make is needed.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

quickstart: $(VENV)/installed  ## distil a resnet20 into a resnet8 on the embedded glyphs data (3 to 4 minutes)
	$(PY) train.py --cfg configs/glyphs/deepkd/res20_res8.yaml
	@echo "  compare it with KD, DKD and a plain student (under 10 minutes on 2 cores): make compare"

compare: $(VENV)/installed  ## a plain student, KD, DKD and DeepKD on glyphs, and a report of them (under 10 minutes)
	$(PY) -m mdistiller_ext.study run studies/compare.yaml
	$(PY) -m mdistiller_ext.study report output/compare
	@echo "open output/compare/report/report.html in a browser"

test: $(VENV)/installed-dev  ## the whole test suite (9 to 12 minutes on 2 cores)
	$(PY) -m pytest -n 3 --dist worksteal  # a third process works while tests of the others wait for programs

soak: $(VENV)/installed-dev  ## kills, damaged bytes, bad inputs and several processes at length (under 20 minutes)
	$(PY) -m pytest --soak -n 2 --dist loadfile tests/system/faults tests/system/fuzz tests/test_distributed.py tests/system/test_torchrun.py

check: $(VENV)/installed-dev  ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/installed-dev  ## rewrite the code in the house's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/installed  ## the speed claims, measured on this machine's CPU (under 5 minutes)
	$(PY) -m benchmarks.data_pipeline
	$(PY) -m benchmarks.deepkd_step --rounds 3
	$(PY) -m benchmarks.epoch --images 192 --test-images 96
	$(PY) -m benchmarks.growth --classes 10 100 1000 --batches 64 256 --seconds 1 --rounds 5
	$(PY) -m benchmarks.image_files --images 128 --rounds 3
	$(PY) -m benchmarks.startup --rounds 3

docs: $(VENV)/installed-dev  ## the documentation as a site that works offline, in site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "open site/index.html in a browser"

build: $(VENV)/installed-dev  ## wheel and sdist, in dist/
	$(PY) -m build --no-isolation

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.PHONY: help quickstart compare test soak check format bench docs build clean
