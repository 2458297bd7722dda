#!/usr/bin/env bash
# Builds qemu-aarch64 (user emulation) with plugin support, which distributions leave out, and prints its path.
# Cached under .cache/qemu; a few minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=10.0.2
sha256=0901da33844a331bf8b3602b9c1fbd178e60b737c8e3ade678255bd090c9b9f1
url=http://deb.debian.org/debian/pool/main/q/qemu/qemu_$version+ds.orig.tar.xz

die() { printf 'count: %s\n' "$*" >&2; exit 1; }

cache=$PWD/.cache/qemu
source=$cache/qemu-$version
emulator=$cache/build-$version/qemu-aarch64
plugin=$cache/marks-$version.so
mkdir -p "$cache"

build_emulator() {
    for tool in curl ninja pkg-config python3 cc; do
        command -v "$tool" >/dev/null || die "$tool is missing: apt-get install curl ninja-build pkg-config python3-venv gcc"
    done
    pkg-config --exists glib-2.0 || die 'GLib is missing: apt-get install libglib2.0-dev'
    local archive=$cache/qemu_$version+ds.orig.tar.xz
    [[ -f $archive ]] || curl --fail --silent --show-error --location --output "$archive" "$url" ||
        die "cannot fetch $url"
    sha256sum --quiet --check <<<"$sha256  $archive" >&2 || die "$archive is not what it should be: remove it"
    tar --extract --directory="$cache" --file="$archive"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet meson==1.5.0 pycotap==1.3.1 tomli distlib >&2
    mkdir -p "$cache/build-$version"
    (
        cd "$cache/build-$version"
        "$source/configure" --python="$cache/venv/bin/python3" --target-list=aarch64-linux-user --enable-plugins \
            --without-default-features --disable-docs --disable-tools --disable-system --disable-install-blobs >configure.log
        nice ninja -j"$(nproc)" qemu-aarch64 >ninja.log
    ) || die "qemu did not build: see $cache/build-$version/*.log"
}

[[ -x $emulator ]] || build_emulator
if [[ ! -f $plugin || cross/count/marks.c -nt $plugin ]]; then
    # shellcheck disable=SC2046  # words are wanted
    cc -shared -fPIC -O2 -Wall -I "$source/include/qemu" $(pkg-config --cflags glib-2.0) \
        -o "$plugin" cross/count/marks.c
fi
printf '%s\n%s\n' "$emulator" "$plugin"
