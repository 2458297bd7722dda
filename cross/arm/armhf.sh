#!/usr/bin/env bash
# The program for 32-bit ARM under an emulator: the numeric crates' tests, then what `make cross TARGET=armv7` made starts,
# and its model computes what it must. No promise about speed.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=cross/targets.sh
source cross/targets.sh
select_target armv7
cross_environment
command -v "$emulator" >/dev/null || die "no $emulator: bash cross/setup/packages.sh cross"
# The oldest processor that Debian's armhf and Raspberry Pi OS of today run on, with NEON.
emulate() { "$emulator" -cpu cortex-a7 "$@"; }

crates=(-p girasol-ops -p girasol-model -p girasol-board)
mapfile -t tests < <(env "$bindgen" cargo zigbuild --locked --release --target "$triple.$glibc" "${crates[@]}" --lib --tests \
    --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[[ ${#tests[@]} -gt 3 ]] || die 'no tests were built'
for test in "${tests[@]}"; do
    printf '==> %s\n' "${test##*/}"
    emulate "$test" --test-threads=1 --quiet
done

binary=$(bash cross/build.sh armv7 | tail -n 1)
emulate "$binary" --version
emulate "$binary" check --no-mqtt --no-devices --bundle models/bundle
