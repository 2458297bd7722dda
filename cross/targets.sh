# shellcheck shell=bash disable=SC2034
# What is known about each target; sourced.

# The oldest glibc that is supported: JetPack 4.
glibc=2.27

die() {
    printf 'cross: %s\n' "$*" >&2
    exit 1
}

# Sets triple, multiarch, debian, loader and what the header search needs.
select_target() {
    case $1 in
    aarch64)
        triple=aarch64-unknown-linux-gnu multiarch=aarch64-linux-gnu debian=arm64
        emulator=qemu-aarch64 clang_target=aarch64-linux-gnu ;;
    armv7)
        triple=armv7-unknown-linux-gnueabihf multiarch=arm-linux-gnueabihf debian=armhf
        emulator=qemu-arm clang_target=armv7-linux-gnueabihf ;;
    x86_64)
        triple=x86_64-unknown-linux-gnu multiarch=x86_64-linux-gnu debian=amd64
        emulator='' clang_target=x86_64-linux-gnu ;;
    *) die 'TARGET must be aarch64, armv7 or x86_64' ;;
    esac
    kernel_headers=/usr/include/$multiarch
}

target_dir() {
    printf '%s' "${CARGO_TARGET_DIR:-$PWD/target}"
}

profile_dir() {
    if [[ $1 == dev ]]; then printf debug; else printf '%s' "$1"; fi
}
