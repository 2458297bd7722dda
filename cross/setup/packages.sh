#!/usr/bin/env bash
# Installs what girasol needs to build, run its demo and test itself, on Debian or Ubuntu.
#
#   packages.sh build   compiler, Rust, ALSA, libclang       (make build)
#   packages.sh demo    build + ffmpeg, mosquitto, Python    (make demo, make test)
#   packages.sh board   demo + arm64 compiler, QEMU          (make test-board)
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
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
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
        as_root apt-get update --quiet
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

# Packages of another architecture are only known after this.
add_arm64() {
    dpkg --print-foreign-architectures | grep -qx arm64 && return 0
    say "dpkg --add-architecture arm64; apt-get update"
    as_root dpkg --add-architecture arm64
    as_root apt-get update --quiet
}

# libclang reads V4L2's header when the `v4l` crate is built; the ALSA library is linked.
build=(ca-certificates curl build-essential pkg-config git libasound2-dev libclang-dev)
demo=(ffmpeg mosquitto mosquitto-clients python3 python3-numpy python3-pil python3-pip)
board=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross libasound2-dev:arm64 qemu-system-arm mmdebstrap kmod cpio
    busybox-static)
case ${1:-} in
    build) install_packages "${build[@]}" ;;
    demo) install_packages "${build[@]}" "${demo[@]}" ;;
    board)
        add_arm64
        install_packages "${build[@]}" "${demo[@]}" "${board[@]}"
        ;;
    *) die "usage: packages.sh build|demo|board" ;;
esac
install_rust
