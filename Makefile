# One cargo profile, release, everywhere: libtorch's C++ glue and the data crates are compiled once.

CARGO ?= cargo
PYTHON ?= python3

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build demo experiments test bench lint doc clean-libtorch

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## get libtorch (LIBTORCH, an installed Python torch, or a download of some 500 MB)
	@$(PYTHON) scripts/setup_libtorch.py

build: setup ## build both commands: collect-feedback and train
	$(CARGO) build --release --workspace

demo: build ## two whole rounds on the sample set: no key, no network
	scripts/demo.sh

experiments: build ## variants of the demo over several seeds, as in docs/experiments.md: four hours or more
	$(PYTHON) scripts/experiments.py

test: setup ## the whole test suite; the last line counts the tests
	@$(PYTHON) scripts/test_counts.py \
		"$(PYTHON) -m unittest discover -s tests/setup 2>&1" \
		"$(CARGO) build --release --workspace" \
		"$(PYTHON) -m unittest discover -s tests/notebook 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/sdk 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/gateway 2>&1" \
		"$(CARGO) test --release --workspace --no-fail-fast"

bench: build ## measure speed and memory, compared with the peers in ARES_PEERS
	scripts/bench.sh

lint: setup ## formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

doc: setup ## the crates' documentation, in the target folder's doc/
	$(CARGO) doc --release --workspace --no-deps

clean-libtorch: ## remove libtorch; the next make setup gets it again
	rm -rf .libtorch
