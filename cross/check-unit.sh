#!/usr/bin/env bash
# Checks the systemd unit without a running systemd: syntax, and the exposure level, which must be 2.0 at most.
set -euo pipefail
cd "$(dirname "$0")/.."
unit=board/systemd/girasol.service
limit=2.0

if ! command -v systemd-analyze >/dev/null; then
    printf 'systemd-analyze is not installed: unit not checked\n'
    exit 0
fi
# The program and its man page are not installed here, and keys newer than this systemd are ignored as intended.
faults=$(systemd-analyze verify "$unit" 2>&1 |
    grep -vE "Unknown key '(RestartSteps|RestartMaxDelaySec)'|/usr/bin/girasol is not executable|man girasol" || true)
[[ -z $faults ]] || { printf 'unit: %s\n' "$faults" >&2; exit 1; }
level=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\).*/\1/p')
printf 'unit: exposure level %s, allowed %s\n' "${level:?systemd-analyze said nothing}" "$limit"
awk -v level="$level" -v limit="$limit" 'BEGIN { exit !(level <= limit) }'
