#!/usr/bin/env bash
# Installs what girasol needs to build, run its demo and test itself, on Debian or Ubuntu.
#
#   packages.sh build   compiler, Rust, ALSA, libclang       (make build)
#   packages.sh demo    build + ffmpeg, mosquitto, Python    (make demo, make test)
#   packages.sh cross   build + zig, libasound of every target, emulator, lintian    (make cross, make deb-test)
#   packages.sh board   demo + arm64 compiler, QEMU          (cross/vm)
#
# Says what it installs, touches nothing when all is there. Needs root or sudo only if something is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root and no sudo: run this as root: $*"
    fi
}

# True if the package is installed. An upgrade or a hold does not matter.
have_package() {
    dpkg-query --show --showformat='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

install_packages() {
    local missing=()
    for package in "$@"; do
        have_package "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null || die "no apt-get here: install these yourself: ${missing[*]}"
    say "apt-get install ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends)
    if ! as_root "${install[@]}" "${missing[@]}"; then
        say "the package lists may be old: apt-get update"
        as_root apt-get update --quiet || say "apt-get update had faults: going on with the lists that it got"
        as_root "${install[@]}" "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
    fi
}

# What a machine without Rust gets. Pinned, because lints that are errors in `make test` change with the version.
tested_rust=1.95.0

# The oldest Rust that builds the workspace, from Cargo.toml.
wanted_rust() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml
}

have_rust() {
    local cargo version
    cargo=$(PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" command -v cargo) || return 1
    version=$("$cargo" --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$(wanted_rust)" "$version" | sort --version-sort | head -n 1) == "$(wanted_rust)" ]]
}

install_rust() {
    if have_rust; then return 0; fi
    local rustup url=https://static.rust-lang.org/rustup/rustup-init.sh
    if rustup=$(PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" command -v rustup); then
        say "Rust is older than $(wanted_rust): rustup toolchain install $tested_rust"
        "$rustup" toolchain install "$tested_rust" --profile minimal --component rustfmt --component clippy
        "$rustup" default "$tested_rust"
    else
        say "installing Rust $tested_rust with rustup ($url) into ${CARGO_HOME:-$HOME/.cargo}"
        local script
        script=$(mktemp)
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail --output "$script" "$url" ||
            die "cannot fetch rustup: install Rust $(wanted_rust) or newer yourself, then run this again"
        sh "$script" -y --quiet --no-modify-path --default-toolchain "$tested_rust" \
            --profile minimal --component rustfmt --component clippy
        rm -f "$script"
    fi
    have_rust || die "cargo is still older than $(wanted_rust) or absent"
}

# libclang reads V4L2's header when the `v4l` crate is built; the ALSA library is linked.
build=(ca-certificates curl build-essential pkg-config git libasound2-dev libclang-dev)
demo=(ffmpeg mosquitto mosquitto-clients python3 python3-numpy python3-pil python3-pip)
# The emulator runs programs under the libc that comes with the target's libasound. (Not its -dev: only the symbols are
# read; the header files are the same.)
cross=(libasound2:arm64 libasound2:armhf libc6-dev-arm64-cross libc6-dev-armhf-cross
    qemu-user binutils dpkg-dev lintian systemd mmdebstrap python3 python3-venv)
board=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross libasound2-dev:arm64 qemu-system-arm mmdebstrap debootstrap e2fsprogs
    kmod cpio busybox-static)

# Packages of another architecture are only known after this.
add_architectures() {
    local missing=()
    for architecture in "$@"; do
        grep -qx "$architecture" <<<"$(dpkg --print-foreign-architectures)" || missing+=("$architecture")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    for architecture in "${missing[@]}"; do
        say "dpkg --add-architecture $architecture"
        as_root dpkg --add-architecture "$architecture"
    done
    as_root apt-get update --quiet || say "apt-get update had faults: going on with the lists that it got"
}

# The linker, into the work tree.
install_zig() {
    local zig=.cache/cross/zig
    if [[ -f $zig/stamp ]] && cmp --silent "$zig/stamp" cross/setup/zig.txt; then return 0; fi
    say "pip install (into $zig): $(grep -v '^#' cross/setup/zig.txt | tr '\n' ' ')"
    rm -rf "$zig"
    python3 -m venv "$zig"
    "$zig/bin/pip" install --quiet --disable-pip-version-check --requirement cross/setup/zig.txt
    cp cross/setup/zig.txt "$zig/stamp"
}

install_targets() {
    local rustup installed
    rustup=$(PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" command -v rustup) ||
        die "no rustup: install the standard libraries of the targets yourself"
    installed=$("$rustup" target list --installed)
    for triple in aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf x86_64-unknown-linux-gnu; do
        grep -qx "$triple" <<<"$installed" || "$rustup" target add "$triple"
    done
}

case ${1:-} in
    build) install_packages "${build[@]}" ;;
    demo) install_packages "${build[@]}" "${demo[@]}" ;;
    cross)
        add_architectures arm64 armhf
        install_packages "${build[@]}" "${cross[@]}"
        ;;
    board)
        add_architectures arm64
        install_packages "${build[@]}" "${demo[@]}" "${board[@]}"
        ;;
    *) die "usage: packages.sh build|demo|cross|board" ;;
esac
install_rust
if [[ $1 == cross ]]; then
    install_targets
    install_zig
fi
