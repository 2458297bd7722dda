#!/usr/bin/env bash
# Builds the disk of the board in a VM with systemd: Debian 12 arm64, minimal, without girasol. Prints its path (raw ext4).
#
# Unpacked here and configured in the VM itself, since this machine cannot run arm64 programs: nine minutes of processor
# time, once. The result is kept below .cache/vm, under a name made from all that goes in.
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
work=$(mktemp -d .cache/vm/work.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p .cache/vm/debs
debootstrap --foreign --cache-dir="$PWD/.cache/vm/debs" --arch=arm64 --variant=minbase --include="$(IFS=,; echo "${include[*]}")" bookworm "$work/root" >&2
cat > "$work/configure.sh" <<'END'
set -e
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt
mount -t proc proc /mnt/proc
mount -t devtmpfs dev /mnt/dev
# The disk is thrown away if the power goes.
mkdir -p /mnt/etc/dpkg/dpkg.cfg.d
echo force-unsafe-io > /mnt/etc/dpkg/dpkg.cfg.d/unsafe
chroot /mnt env DEBIAN_FRONTEND=noninteractive /debootstrap/debootstrap --second-stage
cd /mnt
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/locale usr/share/man etc/dpkg/dpkg.cfg.d/unsafe
mkdir -p share
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
cd /
sync
umount /mnt/dev
# debootstrap has done that already.
umount /mnt/proc || true
umount /mnt
END
mke2fs -q -t ext4 -L board -d "$work/root" "$work/disk" 1200M
mkdir "$work/share"
cp "$work/configure.sh" "$work/share/"
if ! bash cross/vm/run.sh --bare --memory 1024 --timeout 3600 --share "$work/share" --disk "$work/disk" \
    sh -e /share/configure.sh > "$work/log" 2>&1; then
    tail -n 30 "$work/log" >&2
    die 'the system could not be configured'
fi
mv "$work/disk" "$disk"
say "$(du -h "$disk" | cut -f1) of system"
echo "$PWD/$disk"
