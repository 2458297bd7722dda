#!/usr/bin/env bash
# Builds the program for another board, with cargo-zigbuild: `build.sh aarch64|armv7|x86_64 [PROFILE]`.
#
# Links against glibc 2.27 (JetPack 4; everything since is newer) and prints the path of the binary on its last line.
# cross/setup/packages.sh cross installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=cross/targets.sh
source cross/targets.sh
select_target "${1:-}"
profile=${2:-dist}

# zig brings glibc's symbol lists; nothing of the building machine's libc is linked.
export PATH="$PWD/.cache/cross/zig/bin:$PATH"
command -v cargo-zigbuild >/dev/null || die 'no cargo-zigbuild: bash cross/setup/packages.sh cross'

# The only library that is linked besides libc: alone in a folder, so that the linker cannot find another libc beside
# it. It was built against a newer glibc, which does not matter at run time on the board: its symbols are left open.
alsa="$PWD/.cache/cross/$triple/alsa"
mkdir -p "$alsa/pkgconfig"
ln -sf "/usr/lib/$multiarch/libasound.so.2" "$alsa/libasound.so"
cat >"$alsa/pkgconfig/alsa.pc" <<EOF
Name: alsa
Description: Advanced Linux Sound Architecture
Version: 1.2.8
Libs: -L$alsa -lasound
Cflags: -I/usr/include
EOF
under=${triple//-/_}
export PKG_CONFIG_ALLOW_CROSS=1
export "PKG_CONFIG_LIBDIR_$under=$alsa/pkgconfig"
# bindgen (in v4l's sys crate) reads kernel headers, which are the same for every libc.
export "BINDGEN_EXTRA_CLANG_ARGS_$under=--target=$clang_target -isystem $kernel_headers"
export "CARGO_TARGET_${under^^}_RUSTFLAGS=-C link-arg=-Wl,--allow-shlib-undefined"

cargo zigbuild --locked --profile "$profile" --target "$triple.$glibc" -p girasol --bin girasol
printf '%s\n' "$(target_dir)/$triple/$(profile_dir "$profile")/girasol"
