#!/usr/bin/env bash
# Instructions on emulated arm64 CPUs, beside the committed baseline. Fails if something needs 2 % more.
#
#   count.sh operators [accept]    every operator of girasol-ops, on reference shapes and on the shipped encoders' own
#   count.sh snippet [accept]      every stage of a snippet and of the start with the shipped bundle, in int8 and in f32
#                                  (by stock tract); builds all of girasol for arm64, which takes minutes
#
#   count.sh cycles                inner loops on llvm-mca's model of a Cortex-A72
#
# accept: take the figures as the new baseline.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=cross/arm/env.sh
source cross/arm/env.sh
part=${1:?operators, snippet or cycles}
if [[ $part == cycles ]]; then
    mca=$(command -v llvm-mca llvm-mca-14 | head -n 1) || true
    [[ -n $mca ]] || die 'no llvm-mca: apt-get install llvm'
    arm_cargo build --example ops_count
    exec python3 cross/count/cycles.py aarch64-linux-gnu-objdump "$mca" \
        "$CARGO_TARGET_DIR/$arm_target/release/examples/ops_count"
fi
{ read -r emulator; read -r plugin; } < <(cross/count/qemu.sh)
[[ -x ${emulator:-} && -f ${plugin:-} ]] || die 'no emulator with plugins (see above)'
examples=$CARGO_TARGET_DIR/$arm_target/release/examples
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT

case $part in
    operators) arm_cargo build --example ops_count ;;
    snippet) arm_cargo_whole build --example snippet_count ;;
    *) die 'operators or snippet' ;;
esac
for cpu in cortex-a72 cortex-a76 max,sve=off,sme=off; do
    emulated=("$emulator" -cpu "$cpu" -plugin "$plugin")
    case $part in
        operators) "${emulated[@]}" "$examples/ops_count" | sed "s/^/${cpu%%,*} /" ;;
        snippet) python3 cross/count/snippet.py "${cpu%%,*}" "${emulated[@]}" "$examples/snippet_count" models/bundle ;;
    esac >>"$counts"
done
python3 cross/count/compare.py "${2:-compare}" "cross/count/$part.tsv" "$counts"
