# There is only one cargo profile, release, so that libtorch's C++ bindings and the data crates are compiled only once.

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build demo experiments experiments-small wheel test test-wheel bench lint doc clean-libtorch

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## get libtorch (LIBTORCH, an installed Python torch, or a download of about 500 MB)
	@$(PYTHON) scripts/setup_libtorch.py

build: setup ## build both commands: collect-feedback and train
	@[ -x "$(TARGET)/release/train" ] || echo "build: the first build compiles some 450 crates: about 15 minutes on two cores, less on more"
	$(CARGO) build --release --workspace

demo: build ## two whole rounds on the sample problems: no API key; the build fetches dependencies
	scripts/demo.sh

wheel: build ## a Python wheel of both commands, written to target/wheels
	@rm -f "$(TARGET)"/wheels/ares_rust-*.whl
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir "$(TARGET)/wheels" .
	@ls -sh "$(TARGET)"/wheels/ares_rust-*.whl

experiments: build ## variants of the demo over eight seeds, as in docs/experiments.md: a day; continues where it stopped
	$(PYTHON) scripts/experiments.py

experiments-small: build ## four of the variants over three seeds: about an hour; continues where it stopped
	$(PYTHON) scripts/experiments.py --small

test: setup ## the whole test suite; the last line counts the tests
	@$(PYTHON) scripts/test_counts.py \
		"$(PYTHON) -m unittest discover -s tests/setup 2>&1" \
		"$(CARGO) build --release --workspace" \
		"$(PYTHON) -m unittest discover -s tests/notebook 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/sdk 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/gateway 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/export 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/launcher 2>&1" \
		"$(PYTHON) -m unittest discover -s tests/wheel 2>&1" \
		"$(CARGO) test --release --workspace --no-fail-fast"

test-wheel: build ## test the wheel with the torch that pip installs: a download of about 3 GB
	ARES_WHEEL_TORCH=index $(PYTHON) -m unittest discover -v -s tests/wheel

bench: build ## measure speed and memory, compared with the peers in ARES_PEERS
	scripts/bench.sh

lint: setup ## formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

doc: setup ## API documentation, in target/doc
	$(CARGO) doc --release --workspace --no-deps

clean-libtorch: ## remove libtorch; the next make setup gets it again
	rm -rf .libtorch
