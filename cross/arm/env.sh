# Sourced: how to build girasol-ops, or all of girasol, for arm64, statically, so that an emulator needs no arm64
# libraries.
# shellcheck shell=bash
die() { printf 'arm64: %s\n' "$*" >&2; exit 1; }
arm_target=aarch64-unknown-linux-gnu
command -v aarch64-linux-gnu-gcc >/dev/null || die 'no linker: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
if command -v rustup >/dev/null && ! rustup target list --installed | grep -qx "$arm_target"; then
    rustup target add "$arm_target" || die "no Rust for arm64: rustup target add $arm_target"
fi
export CARGO_TARGET_DIR=$PWD/target/arm
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static'
arm_cargo() { cargo "$1" --release --locked -p girasol-ops --no-default-features --target "$arm_target" "${@:2}"; }
# All of girasol, with a sound library that is a stub.
arm_cargo_whole() {
    bash cross/count/stub.sh "$PWD/.cache/count/alsa"
    PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR_aarch64_unknown_linux_gnu=$PWD/.cache/count/alsa \
        BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu='--target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include' \
        cargo "$1" --release --locked -p girasol --target "$arm_target" "${@:2}"
}
