# One environment in .venv, made when missing and brought up to date when its description changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TRITON := .venv-triton/.ready
METRICS := .venv-metrics/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz check lint types docs format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## build the demo: prune, distil, export, verify and benchmark a small generator, and report
	$(BIN)/dcp-deploy build --dataset demo

test: $(READY) $(TRITON) $(METRICS) ## all tests
	$(BIN)/pytest

# atheris has wheels for Linux only, so it is no part of the environment.
fuzz: $(READY) ## look for files that break the readers: SECONDS=60 for each format, FORMATS="native tensorflow" for some
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3.0'
	$(BIN)/python tests/fuzz/fuzz_checkpoints.py --seconds $(or $(SECONDS),60) $(FORMATS)

check: lint types ## everything but the tests: lint, format, types

lint: $(READY) ## ruff: lint rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not know setuptools' package-dir: show it the source folders as the one package they install as.
TREE := .mypy_cache/tree/dcp_deploy
types: $(READY) ## mypy --strict on the whole package
	@rm -rf $(TREE) && mkdir -p $(TREE)
	@ln -s $(addprefix $(CURDIR)/,$(wildcard dcp_deploy/*) benchmarks export kernels) $(TREE)/
	$(BIN)/mypy

# The public names (errors among them) and a page for each of these. A warning of the generator is an error.
PAGES := config teachers.presets pipeline generators checkpoints compression export export.tensorrt \
    export.bundle export.runners.bundle kernels metrics benchmarks report schemas
SITE ?= build/docs
docs: $(READY) ## the API reference, into build/docs
	$(BIN)/python -W error -m pdoc --docformat restructuredtext -o $(SITE) dcp_deploy $(addprefix dcp_deploy.,$(PAGES))

format: $(READY) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and all caches; results under build/<dataset>/ stay
	rm -rf .venv .venv-triton .venv-metrics .mypy_cache .pytest_cache .ruff_cache .hypothesis build/lib build/bdist.* dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@echo "Making the environment in .venv: a few minutes, about 2 GB."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,rtx,dev]'
	@touch $@

# NVIDIA's Triton server with its Python backend, which needs numpy 1 and so an environment of its own, and KServe's
# models, which pin much else. Without them the tests of serving skip themselves and say why.
$(TRITON): Makefile
	@test -x .venv-triton/bin/python || $(PYTHON) -m venv .venv-triton
	@-.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    nvidia-pytriton==0.7.0 kserve==0.21.0 \
	    && .venv-triton/bin/python -m pip install --quiet --disable-pip-version-check \
	    onnxruntime==1.32.0 'numpy==1.26.4' kubernetes==37.0.2 six 'pillow>=10.3'
	@touch $@

# Published metrics, which ours are compared with. Without what they depend on: torchvision would bring another torch,
# and where torch-fidelity is installed without it, torchmetrics cannot be imported. The tests that use them say more.
$(METRICS): Makefile $(READY)
	@rm -rf .venv-metrics
	@-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv-metrics \
	    torch-fidelity==0.4.0 lpips==0.1.4 prdc==0.2 \
	    scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0 narwhals==2.29.0 cloudpickle==3.1.3 tqdm==4.70.1
	@mkdir -p .venv-metrics && touch $@
