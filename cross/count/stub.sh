#!/usr/bin/env bash
# Makes DIRECTORY/libasound.a and alsa.pc for a static arm64 program that never opens a sound card: every function of
# the building machine's libasound is there and traps.
set -euo pipefail
directory=$1
library=$(ldconfig -p | sed -n 's/.*libasound\.so\.2 .*=> //p' | head -n 1)
[[ -n $library ]] || { echo 'count: no libasound.so.2 on this machine: apt-get install libasound2' >&2; exit 1; }
mkdir -p "$directory"
{
    echo '.text'
    objdump --dynamic-syms "$library" | sed -n 's/.* \.text\t.* \(_\?snd_[a-z0-9_]*\)$/\1/p' | sort -u |
        while read -r name; do printf '.globl %s\n%s:\n' "$name" "$name"; done
    echo 'brk #1'
} >"$directory/stub.s"
aarch64-linux-gnu-gcc -c -o "$directory/stub.o" "$directory/stub.s"
rm -f "$directory/libasound.a"
aarch64-linux-gnu-ar rcs "$directory/libasound.a" "$directory/stub.o"
cat >"$directory/alsa.pc" <<PC
Name: alsa
Description: stub
Version: 1.2.8
Libs: -L$directory -lasound
PC
