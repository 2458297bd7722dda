# girasol: everything a person or a CI machine runs. `make` alone explains the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Every target that explains itself.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):[^\#]*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

# mosquitto is in /usr/sbin; rustup's folder is not in the PATH of the shell that has just installed it.
export PATH := $(PATH):/usr/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
CARGO := cargo
# What decides the demo's order and timing, and how many clips `demo-seeds` tries.
SEED ?= 1
N ?= 20
# `make count-snippet ACCEPT=accept` takes its counts as the baseline.
ACCEPT ?=
# What `make cross` builds for: aarch64, armv7 or x86_64.
TARGET ?= aarch64
# Network files for the peer bench: yamnet/yamnet_spectra_in.tflite and nanodet-m/nanodet_m.{param,bin}.
MODELS ?=

help: ## explain the targets
	@printf 'make TARGET [SEED=n] [N=n]\n\n'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: compiler, Rust, ffmpeg, mosquitto, Python (apt, rustup; root or sudo)
	@bash cross/setup/packages.sh demo

build: ## build everything in release, as the tests need it too
	$(CARGO) build --release --locked --workspace --all-targets

demo: setup ## run the real pipeline on a real clip, live in the terminal; SEED=n varies it
	@$(MAKE) --no-print-directory build
	@bash tests/demo/run.sh one $(SEED)

demo-seeds: setup ## N clips at full speed, pass or fail for each (about 30 s a clip, mostly composing)
	@$(MAKE) --no-print-directory build
	@bash tests/demo/run.sh many $(N)

test: setup ## format, lints, and every test that a change must pass
	@$(MAKE) --no-print-directory fmt lint shell unit deny test-demo test-examples test-rust board-short

fmt: ## check the format
	$(CARGO) fmt --all --check

lint: ## clippy, warnings are errors
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

shell: ## check the scripts, if shellcheck is installed
	@if command -v shellcheck >/dev/null; then \
		shellcheck .ci/run $$(git ls-files '*.sh'); \
	else \
		echo 'shellcheck is not installed: scripts not checked'; \
	fi

unit: ## check the systemd unit: syntax and exposure level, if systemd-analyze is installed
	@bash cross/check-unit.sh

deny: ## licences, advisories and banned crates, if cargo-deny is installed
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check; \
	else \
		echo 'cargo-deny is not installed: licences and advisories not checked'; \
	fi

test-demo: ## the demo's own judgement
	/usr/bin/python3 -m unittest discover --start-directory tests/demo

test-examples: ## the examples of consumers, as far as they need neither broker nor Home Assistant
	/usr/bin/python3 -B -m unittest discover --start-directory tests/examples

test-rust: ## unit, property, integration and whole-program tests; the demo's profile, so dependencies compile once
	$(CARGO) test --release --workspace --locked

test-long: setup ## the long tiers: every fault with 10 000 events, 500 boards, then 20 demo clips
	@$(MAKE) --no-print-directory test-faults test-fleet demo-seeds

# The long form of tests that `make test` runs small. FAULT: part of the name of one, like killed or half_open.
FAULT ?=
FAULT_TABLE := $(CURDIR)/target/faults.md

test-faults: setup ## 10 000 events through each kind of trouble, as a table; FAULT=half_open (or another) for one; root for all
	@rm -f $(FAULT_TABLE)
	FAULT_EVENTS=10000 FAULT_TABLE=$(FAULT_TABLE) $(CARGO) test --release --workspace --locked --test faults -- \
		--test-threads=1 matrix::$(FAULT) || code=$$?; \
	echo '| fault | events | lost | copies | out of order | replayed | connections | recovery | back-off | CPU | CPU in all | |'; \
	echo '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'; \
	cat $(FAULT_TABLE); exit $${code:-0}

# What `cargo fuzz` would pass; the coverage is what makes the fuzzer look for new ways.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1
FUZZ_SECONDS ?= 60
FUZZ := commands configuration manifest outbox jpeg wav y4m
fuzz_cargo = RUSTFLAGS='$(FUZZ_FLAGS)' $(CARGO) +nightly
fuzz_to = --release --locked --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --target $$(rustc -vV | sed -n 's/^host: //p')

fuzz: ## look for input that breaks a parser, FUZZ_SECONDS for each of FUZZ='commands wav ...'; needs a nightly Rust
	@if ! $(CARGO) +nightly --version >/dev/null 2>&1; then \
		echo 'make fuzz needs a nightly Rust: rustup toolchain install nightly --profile minimal' >&2; exit 69; \
	fi
	@mkdir -p .cache/fuzz/manifest && cp models/bundle/manifest.json .cache/fuzz/manifest/shipped
	$(fuzz_cargo) build $(fuzz_to)
	@for target in $(FUZZ); do \
		echo "fuzz: $$target"; \
		mkdir -p .cache/fuzz/$$target; \
		$(fuzz_cargo) run --quiet $(fuzz_to) --bin $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=50000 \
			-len_control=20 -rss_limit_mb=512 -malloc_limit_mb=64 -timeout=10 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=.cache/fuzz/$$target- .cache/fuzz/$$target \
			$$(find tests/fuzz/seeds -mindepth 1 -maxdepth 1 -name $$target); \
	done

test-arm: ## operators and the runtime's conformance on emulated Cortex-A57, A72, A76, Armv9; needs qemu-user and an arm64 gcc
	@bash cross/arm/test.sh

test-armhf: ## the numeric crates' tests and the program's start on emulated 32-bit ARM (a quarter of an hour to build)
	@bash cross/setup/packages.sh cross
	@bash cross/arm/armhf.sh

count: ## instructions of every operator on arm64 beside the committed baseline; builds an emulator the first time
	@bash cross/count/count.sh operators

count-accept: ## take today's instruction counts as the baseline
	@bash cross/count/count.sh operators accept

count-snippet: ## instructions of every stage of a snippet on arm64, in int8 and f32; ACCEPT=accept takes them as baseline
	@bash cross/count/count.sh snippet $(ACCEPT)

count-peer: ## instructions of LiteRT on the encoders' networks beside ours; PYTHON with onnx and ai-edge-litert
	@bash cross/count/peer.sh

cycles: ## inner loops of the arm64 kernels on llvm-mca's Cortex-A72; needs llvm-mca and an arm64 gcc
	@bash cross/count/count.sh cycles

miri: ## the integer operators' tests under Miri, if a nightly toolchain with Miri can be had
	@bash cross/arm/miri.sh

HOMEASSISTANT_PYTHON ?= python3
test-homeassistant: setup ## Home Assistant's own MQTT integration operates a device; HOMEASSISTANT_PYTHON: 3.13, or 3.14 for the newest
	@$(HOMEASSISTANT_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 13) and \
		"make test-homeassistant: device discovery needs a Home Assistant of Python 3.13: HOMEASSISTANT_PYTHON=python3.14")'
	$(HOMEASSISTANT_PYTHON) -m venv .cache/homeassistant
	.cache/homeassistant/bin/pip install --quiet homeassistant 'paho-mqtt>=2.1,<3'
	GIRASOL_HOMEASSISTANT_PYTHON=$(CURDIR)/.cache/homeassistant/bin/python \
		$(CARGO) test --release --workspace --locked --test commands -- --nocapture home_assistants_own

test-node-red: setup ## the example flow in a real Node-RED; needs Node.js 18 or newer and npm
	npm install --silent --no-audit --no-fund --omit=optional --prefix .cache/node-red node-red@4
	GIRASOL_NODE_RED=$(CURDIR)/.cache/node-red/node_modules/node-red \
		$(CARGO) test --release --workspace --locked --test examples -- --nocapture node_red

test-fleet: setup ## 500 publishers against one mosquitto: no cross-talk, every event once, what a board costs
	ulimit -n 8192; FLEET_BOARDS=500 $(CARGO) test --release --workspace --locked --test fleet -- --nocapture

bench: build ## cost of each stage on this machine
	target/release/girasol bench --bundle models/bundle

# Rounds of `make bench-int8`.
ROUNDS ?= 5

bench-int8: build ## every graph beside ONNX Runtime's best int8, one thread; installs onnx and onnxruntime below .cache
	@[[ -x .cache/int8-peer/bin/python ]] || python3 -m venv .cache/int8-peer
	.cache/int8-peer/bin/pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 'numpy<3'
	ORT_DISABLE_TELEMETRY=1 .cache/int8-peer/bin/python runtime/benches/int8/compare.py target/release/girasol \
		models/bundle $(ROUNDS)

bench-peer: setup build ## CPU and memory beside OpenCV + YAMNet + NanoDet in Python; MODELS=folder of their networks
	@bash runtime/benches/peer/run.sh '$(MODELS)'

# The training environment: the one that exists, or MODEL_ENV, which `model-env` makes.
MODEL_ENV ?= .cache/model-env
# The media kit, the folder of caches and checkpoints, and further options of `python -m girasol_train all`.
DATA ?= $(GIRASOL_DATA)
WORK ?= .cache/model
OPTIONS ?=
girasol_train = ORT_DISABLE_TELEMETRY=1 PYTHONPATH=models/train $(MODEL_ENV)/bin/python -m girasol_train

model-env: ## Python environment for training, CPU-only torch (1.2 GB); MODEL_ENV=folder
	@bash models/train/environment.sh '$(MODEL_ENV)'

model: model-env ## make the bundle from a media kit, every stage, resumable (hours); DATA=folder WORK=folder
	@if [[ -z '$(DATA)' ]]; then echo 'make model DATA=folder-of-the-media-kit' >&2; exit 64; fi
	@$(MAKE) --no-print-directory build
	$(girasol_train) all --data '$(DATA)' --work '$(WORK)' $(OPTIONS)

model-smoke: model-env ## every training stage on a tiny generated kit (two minutes; needs `make build`)
	$(girasol_train).smoke

model-test: model-env ## tests of the training code; what needs the media kit is skipped without GIRASOL_DATA
	ORT_DISABLE_TELEMETRY=1 $(MODEL_ENV)/bin/python -m pytest --quiet models/train/tests

cross: ## release binary and .deb for TARGET=aarch64|armv7|x86_64, glibc 2.27 and later
	@bash cross/setup/packages.sh cross
	@binary=$$(bash cross/build.sh $(TARGET) | tail -n 1) && \
		bash cross/symbols.sh "$$binary" && \
		deb=$$(bash cross/package.sh $(TARGET) "$$binary" | tail -n 1) && \
		lintian --fail-on error,warning "$$deb" && \
		ls -l "$$binary" "$$deb"

# What `make test-board` runs: all, or names of cases (cross/vm/board.py).
CASE ?= all

test-board: setup ## the arm64 package on an emulated board: capture, faults, broker, systemd (hours; root); CASE=name for one
	@bash cross/setup/packages.sh cross
	@bash cross/setup/packages.sh board
	@binary=$$(bash cross/build.sh aarch64 | tail -n 1) && \
		deb=$$(bash cross/package.sh aarch64 "$$binary" | tail -n 1) && \
		/usr/bin/python3 -B cross/vm/board.py --deb "$$deb" $(CASE)

board-short: ## the shortest of these cases, if `make cross` has made the package and QEMU is installed
	@bash cross/vm/short.sh

deb-test: ## install, upgrade, roll back, remove and purge the x86_64 package in a tree of its own (root)
	@bash cross/setup/packages.sh cross
	@binary=$$(bash cross/build.sh x86_64 | tail -n 1) && \
		deb=$$(bash cross/package.sh x86_64 "$$binary" | tail -n 1) && \
		lintian --fail-on error,warning "$$deb" && \
		bash cross/test-package.sh "$$deb"

clean: ## remove what was built and the demo's media
	$(CARGO) clean
	rm -rf .cache/demo .cache/peer
