#!/usr/bin/env bash
# Makes a stub of libasound to link against: `stub.sh ZIG_TARGET LIBRARY FOLDER`.
#
# It has the library's name, symbols and symbol versions and nothing else. The versions matter: without them the loader
# would take the oldest variant of functions whose parameters have changed.
set -euo pipefail
target=$1 library=$2 folder=$3
# zig writes its targets without the vendor.
zig_target=${target/-unknown/}
zig_target=${zig_target/armv7-/arm-}

rm -rf "$folder"
mkdir -p "$folder"
# Lines of NAME VERSION, default versions only; the symbols that are versions themselves are left out.
objdump -T "$library" | awk '$4 == ".text" && $(NF-1) !~ /^\(/ { print $NF, $(NF-1) }' |
    sort -u >"$folder/symbols"
[[ -s $folder/symbols ]] || { printf 'cross: %s: no symbols found\n' "$library" >&2; exit 1; }
awk '{ print "void " $1 "(void) {}" }' "$folder/symbols" | sort -u >"$folder/stub.c"
awk '{ if (!($2 in seen)) { seen[$2] = 1 } list[$2] = list[$2] "    " $1 ";\n" }
     END { for (v in seen) printf "%s {\n%s};\n", v, list[v] }' "$folder/symbols" >"$folder/versions"
python3 -m ziglang cc --target="$zig_target" -shared -nostdlib -fno-unwind-tables -fno-asynchronous-unwind-tables -Wl,-soname,libasound.so.2 \
    -Wl,--version-script="$folder/versions" -Wno-builtin-requires-header -Wno-incompatible-library-redeclaration \
    -o "$folder/libasound.so" "$folder/stub.c"
# Its header files alone: beside them in /usr/include are those of the building machine's libc.
mkdir "$folder/include"
ln -s /usr/include/alsa "$folder/include/alsa"
cat >"$folder/alsa.pc" <<EOF
Name: alsa
Description: Advanced Linux Sound Architecture (stub)
Version: 1.2.8
Libs: -L$folder -lasound
Cflags: -I$folder/include
EOF
