#!/usr/bin/env bash
# The shortest case of the board in a VM, where its package has been made from these sources; part of `make test`.
#
# Making the package takes longer than everything else that a change must pass, so this never does it.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    printf 'the board in a VM is left out: %s (all of it: make test-board)\n' "$*"
    exit 0
}

deb=$(find target/deb -name 'girasol_*_arm64.deb' -print -quit 2>/dev/null || true)
[[ -n $deb ]] || skip 'there is no arm64 package (make cross TARGET=aarch64)'
newer=$(find Cargo.toml Cargo.lock runtime/src runtime/ops/src models/src models/bundle board/src board/profiles -newer "$deb" \
    -type f -print -quit)
[[ -z $newer ]] || skip "$deb is older than $newer (make cross TARGET=aarch64)"
for tool in qemu-system-aarch64 aarch64-linux-gnu-gcc mmdebstrap; do
    command -v "$tool" >/dev/null || skip "$tool is missing (bash cross/setup/packages.sh board)"
done
exec /usr/bin/python3 -B cross/vm/board.py --deb "$deb" sees-and-hears
