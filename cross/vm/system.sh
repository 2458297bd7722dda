#!/usr/bin/env bash
# Builds the disk of the board in a VM with systemd: Debian 12 arm64, minimal, without girasol. Prints its path (raw ext4).
#
# This machine cannot run arm64 programs, and the board that it emulates is slow: so nothing of the system is configured
# by its packages' own scripts. It is unpacked here, noted as installed, and given the few files that those scripts make
# and a case needs; girasol's package is installed on it by the board's own dpkg, scripts and all. The result is kept
# below .cache/vm, under a name made from all that goes in.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[[ $(id -u) -eq 0 ]] || die 'system.sh needs root (owners of files)'
for tool in debootstrap mke2fs; do
    command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null ||
        die "$tool is missing: run \`cross/setup/packages.sh board\`"
done
export PATH=$PATH:/usr/sbin

# What the package depends on, and what the cases use.
include=(systemd systemd-sysv udev kmod adduser init-system-helpers libasound2 v4l-utils alsa-utils)
key=$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-16)
disk=.cache/vm/system-$key.ext4
if [[ -e $disk ]]; then
    echo "$PWD/$disk"
    exit 0
fi

say "building $disk: $(IFS=,; echo "${include[*]}")"
mkdir -p .cache/vm
work=$(mktemp -d "$PWD/.cache/vm/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p .cache/vm/debs
debootstrap --foreign --cache-dir="$PWD/.cache/vm/debs" --arch=arm64 --variant=minbase \
    --include="$(IFS=,; echo "${include[*]}")" bookworm "$work/root" >&2
root=$work/root
mkdir -p "$work/control" "$root"/var/lib/dpkg/info
for deb in "$root"/var/cache/apt/archives/*.deb; do
    # shellcheck disable=SC2016
    read -r name same <<<"$(dpkg-deb --show --showformat '${Package} ${Multi-Arch}' "$deb")"
    [[ $same != same ]] || name+=:arm64
    dpkg-deb --fsys-tarfile "$deb" | tar --keep-directory-symlink -C "$root" -xvf - |
        sed 's|^\.||; s|/$||; s|^$|/.|' > "$root/var/lib/dpkg/info/$name.list"
    dpkg-deb --field "$deb" > "$work/control/$name"
done
# Every package, as if dpkg had installed it.
for control in "$work"/control/*; do
    sed '1a Status: install ok installed' "$control"
    echo
done > "$root/var/lib/dpkg/status"
rm -rf "$root"/debootstrap "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/{locale,man,doc}

cd "$root"
# Within a container debootstrap makes links of these.
rm -f proc sys dev 2> /dev/null || true
mkdir -p proc sys dev share
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
ln -sf mawk usr/bin/awk
for kind in auth account password session; do
    echo "$kind required pam_unix.so" > etc/pam.d/common-$kind
done
# Without one, systemd takes it for a first start and enables all that there is.
echo 00000000000000000000000000000b0a > etc/machine-id
echo board > etc/hostname
# What a case runs, and the end of it.
cat > etc/systemd/system/case.service <<'UNIT'
[Unit]
Description=The case
After=multi-user.target
[Service]
Type=oneshot
WorkingDirectory=/share
ExecStart=/bin/sh -c '/share/run > /share/output 2>&1 < /dev/null; echo $? > /share/status; sync; exec systemctl --force --force poweroff'
UNIT
mkdir -p etc/systemd/system/default.target.wants etc/systemd/journald.conf.d
ln -s ../case.service etc/systemd/system/default.target.wants/case.service
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
# Nobody looks at the console, and what else takes time.
for unit in serial-getty@ttyAMA0.service getty@tty1.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer fstrim.timer systemd-timesyncd.service alsa-restore.service alsa-state.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
printf '[Journal]\nStorage=persistent\n' > etc/systemd/journald.conf.d/board.conf
cd "$OLDPWD"
mke2fs -q -t ext4 -L board -d "$root" "$work/disk" 1200M >&2  # it names the new file even so
mv "$work/disk" "$disk"
say "$(du -h "$disk" | cut -f1) of system"
echo "$PWD/$disk"
