# shellcheck shell=bash disable=SC2034
# What is known about each target; sourced.

# The oldest glibc that is supported: JetPack 4.
glibc=2.27

die() {
    printf 'cross: %s\n' "$*" >&2
    exit 1
}

# Sets triple, multiarch, debian, emulator, clang_target and headers.
select_target() {
    case $1 in
    aarch64)
        triple=aarch64-unknown-linux-gnu multiarch=aarch64-linux-gnu debian=arm64
        emulator=qemu-aarch64 clang_target=aarch64-linux-gnu headers=/usr/aarch64-linux-gnu/include ;;
    armv7)
        triple=armv7-unknown-linux-gnueabihf multiarch=arm-linux-gnueabihf debian=armhf
        emulator=qemu-arm clang_target=armv7-linux-gnueabihf headers=/usr/arm-linux-gnueabihf/include ;;
    x86_64)
        triple=x86_64-unknown-linux-gnu multiarch=x86_64-linux-gnu debian=amd64
        emulator='' clang_target=x86_64-linux-gnu headers="/usr/include/$multiarch -isystem /usr/include" ;;
    *) die 'TARGET must be aarch64, armv7 or x86_64' ;;
    esac
}

# The environment in which `env "$bindgen" cargo zigbuild --target $triple.$glibc` builds.
cross_environment() {
    # zig brings glibc's symbol lists; nothing of the building machine's libc is linked.
    export PATH="$PWD/.cache/cross/zig/bin:$PATH"
    command -v cargo-zigbuild >/dev/null || die 'no cargo-zigbuild: bash cross/setup/packages.sh cross'

    # libasound, the only library that is linked besides libc, as a stub: the building machine's own wants a newer glibc.
    local alsa="$PWD/.cache/cross/$triple/alsa"
    [[ -f $alsa/libasound.so ]] || bash cross/stub.sh "$triple.$glibc" "/usr/lib/$multiarch/libasound.so.2" "$alsa"
    local under=${triple//-/_}
    export PKG_CONFIG_ALLOW_CROSS=1
    export "PKG_CONFIG_LIBDIR_$under=$alsa"
    # bindgen (in v4l's sys crate) reads kernel headers, which are the same for every libc. cargo-zigbuild sets the
    # variable whose name has the target's hyphens, with zig's headers relative to this folder, where bindgen does not
    # run; only `env` can set a name like that.
    bindgen="BINDGEN_EXTRA_CLANG_ARGS_$triple=--target=$clang_target -isystem $headers"
}

target_dir() {
    printf '%s' "${CARGO_TARGET_DIR:-$PWD/target}"
}

profile_dir() {
    if [[ $1 == dev ]]; then printf debug; else printf '%s' "$1"; fi
}
