#!/usr/bin/env bash
# The integer operators under Miri, which finds undefined behaviour: out-of-bounds reads, bad pointers, misalignment.
# Kernels that are inline assembly or use instructions that Miri does not know are outside its reach; see
# docs/design/ops.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo +nightly miri --version >/dev/null 2>&1 &&
    ! rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1; then
    echo 'Miri is not installed and cannot be: not run (rustup toolchain install nightly --component miri,rust-src)'
    exit 0
fi
export CARGO_TARGET_DIR=$PWD/target/miri
# Few cases: Miri is a thousand times slower.
PROPTEST_CASES=${PROPTEST_CASES:-4} MIRIFLAGS='-Zmiri-disable-isolation' \
    cargo +nightly miri test --locked -p girasol-ops --no-default-features --tests
