#!/usr/bin/env bash
# Makes the Debian package of a binary: `package.sh aarch64|armv7|x86_64 BINARY [OUT_DIR]`; prints its path.
#
# dpkg-deb by hand and not cargo-deb: nothing more to install, every file and maintainer script in plain view.
# Foreign binaries are run under qemu-user for their man pages and completions.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=cross/targets.sh
source cross/targets.sh
select_target "${1:-}"
binary=${2:?BINARY is missing}
out=${3:-$PWD/target/deb}
from=$PWD/cross/package

version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
[[ -n $version ]] || die 'no version in Cargo.toml'
version+=${GIRASOL_VERSION_SUFFIX:-}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

# `put MODE SOURCE TARGET`
put() { install -D --mode "$1" "$2" "$tree/$3"; }
# `squeeze TARGET`: Debian wants documentation compressed, without time stamps.
squeeze() { gzip -9 --no-name "$tree/$1"; }

run() {
    if [[ $triple == "$(uname -m)"-* || -z $emulator ]]; then "$binary" "$@"; else "$emulator" "$binary" "$@"; fi
}

put 755 "$binary" usr/bin/girasol
put 644 board/systemd/girasol.service lib/systemd/system/girasol.service
put 644 board/udev/60-girasol.rules lib/udev/rules.d/60-girasol.rules
put 644 "$from/girasol.toml" etc/girasol/girasol.toml
for file in models/bundle/*; do
    put 644 "$file" "usr/share/girasol/bundle/${file##*/}"
done

doc=usr/share/doc/girasol
put 644 "$from/copyright" $doc/copyright
put 644 "$from/girasol.toml" $doc/examples/girasol.toml
repository=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)
[[ -n $repository ]] || die 'no repository in Cargo.toml'
python3 cross/package/docs.py "$repository" "$tree/$doc"
python3 cross/package/third_party.py "$triple" >"$tree/$doc/third-party.txt"
chmod 644 "$tree/$doc/third-party.txt"
squeeze "$doc/third-party.txt"
{
    printf 'girasol (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md in the source.\n\n' "$version"
    printf ' -- girasol contributors <girasol-rt@users.noreply.github.com>  %s\n' \
        "$(date --utc --rfc-email --date "@$(git log -1 --format=%ct)")"
} >"$tree/$doc/changelog"
chmod 644 "$tree/$doc/changelog"
squeeze "$doc/changelog"

mkdir -p "$tree/usr/share/man/man1" "$tree/usr/share/bash-completion/completions" \
    "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/fish/vendor_completions.d"
run man "$tree/usr/share/man/man1"
chmod 644 "$tree"/usr/share/man/man1/*
gzip -9 --no-name "$tree"/usr/share/man/man1/*
run completions bash >"$tree/usr/share/bash-completion/completions/girasol"
run completions zsh >"$tree/usr/share/zsh/vendor-completions/_girasol"
run completions fish >"$tree/usr/share/fish/vendor_completions.d/girasol.fish"
find "$tree" -type d -exec chmod 755 {} +

depends="libc6 (>= $glibc), adduser, init-system-helpers (>= 1.51)"
if readelf --dynamic --wide "$binary" | grep -q 'NEEDED.*libasound'; then
    depends+=', libasound2 | libasound2t64'
fi
mkdir -p "$tree/DEBIAN"
for script in postinst prerm postrm; do
    install --mode 755 "$from/$script" "$tree/DEBIAN/$script"
done
printf '/etc/girasol/girasol.toml\n' >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<EOF
Package: girasol
Version: $version
Architecture: $debian
Maintainer: girasol contributors <girasol-rt@users.noreply.github.com>
Installed-Size: $(du --summarize --block-size 1K --apparent-size --exclude DEBIAN "$tree" | cut -f1)
Depends: $depends
Suggests: mosquitto, ffmpeg, v4l-utils, alsa-utils
Section: net
Priority: optional
Homepage: https://github.com/girasol-rt/girasol
Description: edge runtime: camera and microphone in, text events over MQTT out
 Looks through a camera, listens through a microphone, and tells an MQTT broker
 in words what it sees and hears, with one audio-video model that runs on the
 processor. Pictures and sound never leave the process.
EOF
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

mkdir -p "$out"
package=$out/girasol_${version}_$debian.deb
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) dpkg-deb --root-owner-group -Zxz --build "$tree" "$package" >&2
printf '%s\n' "$package"
