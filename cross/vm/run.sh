#!/usr/bin/env bash
# Runs a command on the board in a VM (image.sh) and returns its exit status; its output comes when it is done.
#
#   run.sh [--cpu cortex-a72] [--cores 2] [--memory 512] [--timeout 120] [--broker PORT] [--icount N] [--bare]
#          [--share DIR] [--qmp SOCKET] [--disk IMAGE] [--system] COMMAND...
#
# DIR (default: a new empty folder) is /share in the guest, where the command runs. --broker forwards 10.0.2.100:1883 in
# the guest to PORT on the host's loopback; nothing else can be reached from it. --icount N: virtual time, 2^N ns per
# instruction, independent of the host's load; idle time takes none, but with --system passes as on the host. --bare:
# neither camera nor sound card is loaded. --qmp: QEMU's control socket. --disk: /dev/vda, raw, written to. --system: that
# disk's own system is started, and runs the command. The guest's console is kept in DIR/console. Exit status 124: the
# time was over; 125: the guest never got to run.
set -euo pipefail

cpu=cortex-a72 cores=2 memory=512 timeout=120 broker='' icount='' kernel='' share='' qmp='' disk='' sleep=off
while [[ ${1:-} == --* ]]; do
    case $1 in
        --bare) kernel+=' girasol.bare'; shift; continue ;;
        # A disk answers in the host's time: were idle time skipped, each write would seem to take minutes.
        --system) kernel+=' girasol.system' sleep=on; shift; continue ;;
        --disk) disk=$2 ;;
        --cpu) cpu=$2 ;;
        --cores) cores=$2 ;;
        --memory) memory=$2 ;;
        --timeout) timeout=$2 ;;
        --broker) broker=$2 ;;
        --icount) icount=$2 ;;
        --share) share=$2 ;;
        --qmp) qmp=$2 ;;
        --) shift; break ;;
        *) printf 'run.sh: unknown option %s\n' "$1" >&2; exit 64 ;;
    esac
    shift 2
done
[[ $# -gt 0 ]] || { echo 'run.sh: no command' >&2; exit 64; }

image=$(bash "$(dirname "$0")/image.sh")
if [[ -z $share ]]; then
    share=$(mktemp -d)
    trap 'rm -rf "$share"' EXIT
fi
rm -f "$share"/{run,status,output,console}
{ echo '#!/bin/sh'; printf '%q ' "$@"; echo; } > "$share/run"
chmod +x "$share/run"

accel=(-accel "tcg,thread=multi")
if [[ -n $icount ]]; then
    accel=(-accel "tcg,thread=single" -icount "shift=$icount,sleep=$sleep")
    cores=1
fi
forward=''
[[ -z $broker ]] || forward=",guestfwd=tcp:10.0.2.100:1883-cmd:busybox nc 127.0.0.1 $broker"
control=()
[[ -z $qmp ]] || control=(-qmp "unix:$qmp,server=on,wait=off")

drive=()
[[ -z $disk ]] || drive=(-drive "file=$disk,format=raw,if=none,id=disk,cache=writeback" -device "virtio-blk-pci,drive=disk")

rc=0
timeout --kill-after=5 "$timeout" qemu-system-aarch64 -M virt,gic-version=3 -cpu "$cpu" -smp "$cores" -m "$memory" \
    "${accel[@]}" -nodefaults -nographic -no-reboot -serial "file:$share/console" -monitor none \
    -kernel "$image/kernel" -initrd "$image/initramfs" \
    -append "console=ttyAMA0 quiet loglevel=4 panic=-1$kernel" \
    -fsdev "local,id=share,path=$share,security_model=none,multidevs=remap" \
    -device virtio-9p-pci,fsdev=share,mount_tag=share \
    -netdev "user,id=net,restrict=on$forward" -device virtio-net-pci,netdev=net,romfile= \
    -device virtio-rng-pci "${drive[@]}" "${control[@]}" < /dev/null || rc=$?

[[ ! -e $share/output ]] || cat "$share/output"
if [[ -e $share/status ]]; then
    exit "$(cat "$share/status")"
fi
[[ $rc -ne 124 ]] || { echo "run.sh: not done within $timeout s" >&2; exit 124; }
echo 'run.sh: the guest did not finish; its console:' >&2
tail -n 20 "$share/console" >&2 || true
exit 125
