# One environment in .venv, made when missing and brought up to date when its description changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TRITON := .venv-triton/.ready
METRICS := .venv-metrics/.ready
PIP_FLAGS := -qq --disable-pip-version-check

# Where PyTorch comes from, such as https://download.pytorch.org/whl/cpu; by default from pip's own index, whose wheels
# are for CUDA. .venv keeps the answer, so that a later update takes the same kind.
TORCH_INDEX ?= $(file < .venv/torch-index)

.DEFAULT_GOAL := help
.PHONY: help demo test browser triton pythons runtimes converters fuzz check lint types docs dist format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## build the demo: prune, distil, export, verify and benchmark a small generator, and report
	$(BIN)/dcp-deploy build --dataset demo

# A worker for each core, up to eight: each holds a torch of its own. A file's tests stay in one worker, which makes
# their fixtures once.
test: $(READY) $(TRITON) $(METRICS) ## all tests
	$(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile

# Tests of the page of bundle --web skip without these two, and say so. Only what is missing is installed: Debian's npm
# does not fit beside a Node.js from elsewhere.
browser: ## Chromium and npm for the tests of pages for browsers: by apt-get, as root
	@missing=$$(for each in chromium npm; do command -v $$each > /dev/null || echo $$each; done); \
	    test -z "$$missing" || { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $$missing; }

triton: $(TRITON) ## NVIDIA's Triton server in .venv-triton, for serve --server .venv-triton

# What needs no torch (command line, configuration, downloads, images, reports, bundles), on the other Pythons that
# pyproject.toml declares and this machine has. Torch itself has no small wheels for them on the package index.
pythons: $(READY) ## the parts without torch on Python 3.12 and 3.13, where installed
	$(BIN)/python tests/pythons.py 3.12 3.13

# Each release of ONNX Runtime in an environment of its own below build/runtimes, without torch.
runtimes: $(READY) ## exported files in ONNX Runtime 1.13 to the newest, every precision: images compared
	$(BIN)/python -m tests.runtimes $(RELEASES)

# Each converter in an environment of its own below build/converters; onnx2tf brings TensorFlow, about 2 GB.
converters: $(READY) ## exported files through onnxsim, onnxslim and onnx2tf with LiteRT: images compared
	$(BIN)/python -m tests.converters

# atheris has wheels for Linux only, so the environment does not include it.
fuzz: $(READY) ## look for files, documents and requests that break their readers: SECONDS=60 for each kind
	$(BIN)/python -m pip install $(PIP_FLAGS) 'atheris>=3.0'
	$(BIN)/python -m tests.fuzz.fuzz_checkpoints --seconds $(or $(SECONDS),60) $(FORMATS)
	$(BIN)/python -m tests.fuzz.fuzz_documents --seconds $(or $(SECONDS),60)
	$(BIN)/python -m tests.fuzz.fuzz_archives 2000

check: lint types ## everything but the tests: lint, format, types

lint: $(READY) ## ruff: lint rules and formatting; hadolint: Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docs/docker/*.Dockerfile

# mypy does not know setuptools' package-dir: show it the source folders as the one package they install as.
TREE := .mypy_cache/tree/dcp_deploy
types: $(READY) ## mypy --strict on the whole package
	@rm -rf $(TREE) && mkdir -p $(TREE)
	@ln -s $(addprefix $(CURDIR)/,$(wildcard dcp_deploy/*) benchmarks export kernels) $(TREE)/
	$(BIN)/mypy

# The guides of docs/, the README and the docstrings as one site, without a network. Warnings, such as those about links
# that lead nowhere, are errors. Nothing is kept from the last build: Sphinx does not see changes behind lazy imports.
SITE ?= build/docs
docs: $(READY) ## the documentation as a site, into build/docs: guides and API
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir $(SITE)/.doctrees docs $(SITE)

# Built without isolation, by the setuptools of the environment; the wheel is made from the sdist, so that is complete.
dist: $(READY) ## sdist and wheel for a package index, checked, into dist
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

format: $(READY) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and all caches; results under build/<dataset>/ stay
	rm -rf .venv .venv-triton .venv-metrics .mypy_cache .pytest_cache .ruff_cache .hypothesis build/lib build/bdist.* dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# From TORCH_INDEX pip takes the one wheel of torch, in the version of constraints.txt, and everything else from its own
# index. With --extra-index-url any name could come from either, whichever has the higher version.
$(READY): pyproject.toml constraints.txt
	@echo "Making the environment in .venv: a few minutes, about 3 GB$(if $(TORCH_INDEX),,; several more if PyTorch is for CUDA)."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch \
	    > .venv/torch.log 2>&1 || { cat .venv/torch.log; exit 1; }
	@echo $(TORCH_INDEX) > .venv/torch-index
endif
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[cpu,rtx,dev]'
	@touch $@

# Two more environments, which only tests use. Their pip installs without dependencies, on purpose, and complains about
# it at length: its words go to install.log. Without them the tests that need them skip and say why.

# NVIDIA's Triton server with its Python backend, which needs numpy 1, and KServe's models, which pin much else.
$(TRITON): Makefile
	@echo "Making .venv-triton with a Triton server: half a minute, about 0.7 GB."
	@test -x .venv-triton/bin/python || $(PYTHON) -m venv .venv-triton
	@(.venv-triton/bin/python -m pip install $(PIP_FLAGS) --no-deps nvidia-pytriton==0.7.0 kserve==0.21.0 \
	    && .venv-triton/bin/python -m pip install $(PIP_FLAGS) \
	    onnxruntime==1.32.0 'numpy==1.26.4' kubernetes==37.0.2 six 'pillow>=10.3') \
	    > .venv-triton/install.log 2>&1 || echo "not installed, see .venv-triton/install.log: tests will skip"
	@touch $@

# Published metrics, which ours are compared with. Without their dependencies: torchvision would bring another torch, and
# where torch-fidelity is installed without it, torchmetrics cannot be imported.
$(METRICS): Makefile $(READY)
	@echo "Making .venv-metrics for the tests of metrics: a few seconds, about 0.1 GB."
	@rm -rf .venv-metrics && mkdir .venv-metrics
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --target .venv-metrics \
	    torch-fidelity==0.4.0 lpips==0.1.4 prdc==0.2 \
	    scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0 narwhals==2.29.0 cloudpickle==3.1.3 tqdm==4.70.1 \
	    > .venv-metrics/install.log 2>&1 || echo "not installed, see .venv-metrics/install.log: tests will skip"
	@touch $@
