#!/usr/bin/env bash
# On emulated arm64 CPUs: the integer operators' tests, which kernel each CPU chooses, and the runtime's conformance: the
# shipped graphs, streaming, and the frontends, on every kernel that the CPU has and in f32.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=cross/arm/env.sh
source cross/arm/env.sh
command -v qemu-aarch64 >/dev/null || die 'no emulator: apt-get install qemu-user'

# Unit tests and every file of tests/, as Cargo names what it built.
mapfile -t tests < <(arm_cargo test --tests --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[[ ${#tests[@]} -gt 1 ]] || die 'no tests were built'

program=$(arm_cargo_whole test --lib --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[[ -x $program ]] || die 'the runtime was not built'
conformance=(model::conformance model::operator_conformance frontend::)

# CPU model, and the kernel that it must choose.
while read -r cpu kernel; do
    printf '==> %s, %s\n' "$cpu" "$kernel"
    for test in "${tests[@]}"; do
        # One thread: emulated threads of a static program are not reliable.
        GIRASOL_EXPECT_KERNEL=$kernel qemu-aarch64 -cpu "$cpu" "$test" --test-threads=1 --quiet
    done
    GIRASOL_EXPECT_KERNEL=$kernel qemu-aarch64 -cpu "$cpu" "$program" --test-threads=1 --quiet "${conformance[@]}"
done <<'CPUS'
cortex-a57 neon
cortex-a72 neon
cortex-a76 neon-dotprod
max,sve=off,sme=off neon-i8mm
CPUS
