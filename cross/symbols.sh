#!/usr/bin/env bash
# Reads what a binary needs from the board: `symbols.sh BINARY`. Fails if it wants a glibc newer than ours (cross/
# targets.sh) or a library beyond glibc's own and libasound.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=cross/targets.sh
source cross/targets.sh
binary=${1:?BINARY is missing}

newest=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9][0-9.]*' | sed 's/GLIBC_//' | sort --version-sort --unique | tail -n 1)
needed=$(readelf --dynamic --wide "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
printf '%s: glibc %s at least; needs %s\n' "$binary" "${newest:-none}" "$(tr '\n' ' ' <<<"$needed")"
[[ -n $newest ]] || die "$binary: no glibc symbols: is it a dynamically linked program?"
[[ $(printf '%s\n' "$newest" "$glibc" | sort --version-sort | tail -n 1) == "$glibc" ]] ||
    die "$binary wants glibc $newest, allowed is $glibc"
# Before glibc 2.34 threads and the loader are libraries of their own.
others=$(grep -vE '^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux.*|libasound\.so\.2)$' <<<"$needed" || true)
[[ -z $others ]] || die "$binary needs more than glibc and libasound: $others"
