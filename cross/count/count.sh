#!/usr/bin/env bash
# Instructions of every operator, and of every stage of a snippet with the shipped bundle in int8 and in f32, on emulated
# arm64 CPUs, beside the committed baseline. Fails if one needs 2 % more.
#
#   count.sh            compare
#   count.sh accept     take the figures as the new baseline
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=cross/arm/env.sh
source cross/arm/env.sh
{ read -r emulator; read -r plugin; } < <(cross/count/qemu.sh)
[[ -x ${emulator:-} && -f ${plugin:-} ]] || die 'no emulator with plugins (see above)'
arm_cargo build --example ops_count
arm_cargo_whole build --example snippet_count
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
for cpu in cortex-a72 cortex-a76 max,sve=off,sme=off; do
    examples=$CARGO_TARGET_DIR/$arm_target/release/examples
    "$emulator" -cpu "$cpu" -plugin "$plugin" "$examples/ops_count" | sed "s/^/${cpu%%,*} /" >>"$counts"
    python3 cross/count/snippet.py "${cpu%%,*}" \
        "$emulator" -cpu "$cpu" -plugin "$plugin" "$examples/snippet_count" models/bundle >>"$counts"
done
python3 cross/count/compare.py "${1:-compare}" cross/count/baseline.tsv "$counts"
