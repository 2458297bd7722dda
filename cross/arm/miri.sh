#!/usr/bin/env bash
# The integer operators under Miri, which finds undefined behaviour: out-of-bounds reads, bad pointers, misalignment. On
# x86_64, the scalar kernels and the AVX2 ones: Miri knows their instructions, and believes the CPU has what it is compiled
# for. AVX-512 it knows too little of, inline assembly (NEON) not at all; see docs/design/ops.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo +nightly miri --version >/dev/null 2>&1 &&
    ! rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1; then
    echo 'make miri: NOT RUN: no Miri (rustup toolchain install nightly --component miri,rust-src)' >&2
    exit 69
fi
export CARGO_TARGET_DIR=$PWD/target/miri
if [[ $(uname -m) == x86_64 ]]; then
    export RUSTFLAGS='-Ctarget-feature=+avx2,+fma' GIRASOL_EXPECT_KERNEL=avx2
fi
# Few cases: Miri is a thousand times slower.
PROPTEST_CASES=${PROPTEST_CASES:-4} MIRIFLAGS='-Zmiri-disable-isolation' \
    cargo +nightly miri test --locked -p girasol-ops --no-default-features --tests
