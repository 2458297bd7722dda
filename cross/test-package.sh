#!/usr/bin/env bash
# Installs, upgrades, removes and purges a package of this machine's architecture in a tree of its own:
# `test-package.sh DEB` (root). No service manager runs in there: that part belongs to the board in a VM.
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "${1:?DEB is missing}")
include=adduser,init-system-helpers,libasound2
base=.cache/cross/bookworm-$(sha256sum <<<"$include" | cut -c1-8).tar

say() { printf '%s\n' "$*"; }
fail() { printf 'package: FAILED: %s\n' "$*" >&2; exit 1; }
# `is WHAT COMMAND...`
is() {
    local what=$1
    shift
    "$@" >/dev/null 2>&1 || fail "$what"
    say "  ok  $what"
}
not() { ! "$@"; }

[[ $(id -u) -eq 0 ]] || fail 'needs root for a chroot'
if [[ ! -f $base ]]; then
    mkdir -p "${base%/*}"
    mmdebstrap --quiet --variant=essential --include="$include" bookworm "${base%.tar}.part.tar"
    mv "${base%.tar}.part.tar" "$base"
fi
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
tar --extract --file "$base" --directory "$tree" --exclude './dev/*'
inside() { chroot "$tree" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
mkdir -p "$tree/dev"
: >"$tree/dev/null"

# The next version, with another configuration file: the same package but for these two.
work=$tree/work
dpkg-deb --raw-extract "$deb" "$work"
sed -i 's/^Version: .*/&+next/' "$work/DEBIAN/control"
printf '\n# a new default\n' >>"$work/etc/girasol/girasol.toml"
cp "$deb" "$tree/first.deb"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$work" "$tree/next.deb" >/dev/null
rm -rf "$work"

enabled=/etc/systemd/system/multi-user.target.wants/girasol.service
say install
inside dpkg --install /first.deb >/dev/null
is 'the program starts' inside girasol --version
is 'the unit is enabled' test -L "$tree$enabled"
is 'the user exists' inside getent passwd girasol
is 'and is in the groups video and audio' inside sh -c 'id -nG girasol | grep -qw video && id -nG girasol | grep -qw audio'
# shellcheck disable=SC2016
is 'the credential is empty, mode 0600' inside sh -c '[ "$(stat -c %a:%U:%s /etc/girasol/mqtt-password)" = 600:root:0 ]'
is 'the shipped configuration and bundle pass girasol check' inside girasol check --no-mqtt
is 'every link between the shipped pages leads somewhere' python3 cross/package/links.py "$tree/usr/share/doc/girasol"

say upgrade
printf '[device]\nname = "porch"\n' >"$tree/etc/girasol/girasol.toml"
printf 'secret\n' >"$tree/etc/girasol/mqtt-password"
mkdir -p "$tree/var/lib/girasol" && : >"$tree/var/lib/girasol/outbox"
inside dpkg --force-confold --install /next.deb >/dev/null 2>&1
is 'the edited configuration is kept' grep -q porch "$tree/etc/girasol/girasol.toml"
is 'the new one lies beside it' test -f "$tree/etc/girasol/girasol.toml.dpkg-dist"
is 'the password is kept' grep -q secret "$tree/etc/girasol/mqtt-password"
rm "$tree$enabled"
inside dpkg --force-confold --install /first.deb >/dev/null 2>&1
is 'rollback installs the first version' grep -qx "Version: $(dpkg-deb --field "$deb" Version)" <(inside dpkg-query --status girasol)
is 'a unit disabled by hand stays so' not test -L "$tree$enabled"

say remove
inside dpkg --remove girasol >/dev/null 2>&1
is 'the program is gone' not test -e "$tree/usr/bin/girasol"
is 'configuration, password and state stay' test -f "$tree/etc/girasol/girasol.toml" -a -f "$tree/etc/girasol/mqtt-password" -a -f "$tree/var/lib/girasol/outbox"

say purge
inside dpkg --purge girasol >/dev/null 2>&1
left=$(find "$tree" -xdev -iname '*girasol*' -not -path "$tree/proc/*" | sed "s|^$tree||")
[[ -z $left ]] || fail "left after purge: $left"
say '  ok  nothing named girasol is left'
is 'nor the user' not inside getent passwd girasol
say 'package: passed'
