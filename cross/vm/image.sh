#!/usr/bin/env bash
# Builds what the board in a VM boots from: the stock Debian arm64 kernel and an initramfs with a camera (vivid), a
# sound card (snd-aloop), busybox, v4l-utils and alsa-utils. Prints the folder that holds `kernel` and `initramfs`.
#
# Nothing is installed: packages are fetched with apt and unpacked. The result is kept below .cache/vm, under a name made
# from the two scripts, so a second call only prints. A newer kernel comes in when that folder is deleted; which one it
# is stands in `built-from`.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

key=$(cat "${BASH_SOURCE[0]}" cross/vm/init | sha256sum | cut -c1-16)
image=.cache/vm/$key
if [[ -e $image/initramfs ]]; then
    echo "$PWD/$image"
    exit 0
fi

for tool in apt-get dpkg-deb mmdebstrap depmod modprobe cpio; do
    command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null ||
        die "$tool is missing: run \`cross/setup/packages.sh board\`"
done
export PATH=$PATH:/usr/sbin
# (Not through a pipe: `grep -q` ends before dpkg does, which pipefail takes for a failure.)
grep -qx arm64 <<<"$(dpkg --print-foreign-architectures)" || die 'no arm64 packages: run cross/setup/packages.sh board'

# The meta-package names the current 6.1 kernel. Not 6.12: it renamed the loop control of vivid.
kernel=$(apt-cache depends linux-image-arm64:arm64 | sed -n 's/.*Depends: \(linux-image-6\.1\.[^:]*\).*/\1/p' | head -n 1)
[[ -n $kernel ]] || die 'no 6.1 arm64 kernel in the package lists: apt-get update'
version=$(apt-cache show --no-all-versions "$kernel:arm64" | sed -n 's/^Version: //p' | head -n 1)
release=${kernel#linux-image-}

# bsdutils has `script`, which gives a program a terminal.
userland=(alsa-utils bsdutils busybox-static libasound2 v4l-utils)
modules=(vivid snd-aloop 9p 9pnet_virtio virtio_net virtio_pci virtio_mmio virtio_rng virtio_blk ext4 crc32c_generic)

say "building $image: $kernel $version, $(IFS=,; echo "${userland[*]}")"
mkdir -p .cache/vm
work=$(mktemp -d .cache/vm/work.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/kernel" "$work/image"

(cd "$work" && apt-get download --quiet "$kernel:arm64" >&2)
dpkg-deb -x "$work/$kernel"_*.deb "$work/kernel"
cp "$work/kernel/boot/vmlinuz-$release" "$work/image/kernel"
echo "$kernel $version" > "$work/image/built-from"

mmdebstrap --quiet --variant=extract --architectures=arm64 \
    --include="$(IFS=,; echo "${userland[*]}")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/sounds/*' \
    bookworm "$work/root" >&2

# The modules and what they need, in a module tree of their own.
depmod -b "$work/kernel" "$release"
for module in "${modules[@]}"; do
    modprobe -d "$work/kernel" -S "$release" --show-depends "$module" 2>/dev/null || true
done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
    target=$work/root/lib/modules/$release/${file#"$work/kernel/lib/modules/$release/"}
    install -D --mode=644 "$file" "$target"
done
cp "$work/kernel/lib/modules/$release"/modules.{builtin,order} "$work/root/lib/modules/$release/"
depmod -b "$work/root" "$release"

install --mode=755 cross/vm/init "$work/root/init"
mkdir -p "$work/root"/{proc,sys,dev,run,tmp,share,etc}
printf 'root:x:0:0:root:/root:/bin/sh\n' > "$work/root/etc/passwd"
printf 'root:x:0:\naudio:x:29:\nvideo:x:44:\n' > "$work/root/etc/group"
# What only takes memory.
rm -rf "$work/root"/usr/share/{i18n,perl,zoneinfo} "$work/root"/usr/lib/aarch64-linux-gnu/{perl*,gconv} \
    "$work/root"/var/{lib/apt,lib/dpkg,cache} "$work/root"/usr/bin/perl*
(cd "$work/root" && find . -print0 | sort -z | cpio --null --create --format=newc --owner=0:0 --quiet) |
    gzip -1 > "$work/image/initramfs"

rm -rf "$image"
mv "$work/image" "$image"
say "$(du -h "$image/initramfs" | cut -f1) of initramfs"
echo "$PWD/$image"
