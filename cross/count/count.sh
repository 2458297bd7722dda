#!/usr/bin/env bash
# Instructions of every operator on emulated arm64 CPUs, beside the committed baseline. Fails if one needs 2 % more.
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
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
for cpu in cortex-a72 cortex-a76 max,sve=off,sme=off; do
    "$emulator" -cpu "$cpu" -plugin "$plugin" "$CARGO_TARGET_DIR/$arm_target/release/examples/ops_count" |
        sed "s/^/${cpu%%,*} /" >>"$counts"
done
python3 cross/count/compare.py "${1:-compare}" cross/count/baseline.tsv "$counts"
