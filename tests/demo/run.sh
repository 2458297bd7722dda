#!/usr/bin/env bash
# The demo and its many-seeds test; `make demo` and `make demo-seeds` call it after setup and build.
#
#   run.sh one SEED    one clip in real time, shown live
#   run.sh many N      N clips (seeds 1 to N) at full speed, a line each
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${GIRASOL_CACHE:-.cache}/demo
bundle=${GIRASOL_BUNDLE:-models/bundle}
program=${CARGO_TARGET_DIR:-target}/release/girasol
# A clip belongs to the composer that made it.
composer=$(sha256sum tests/demo/compose.py | cut -c1-8)

compose() { # SEED FOLDER
    [[ ! -e $2/truth.json ]] || return 0
    printf '==> composing clip %s\n' "$1" >&2
    /usr/bin/python3 tests/demo/compose.py --media "$cache/media" --out "$2" --seed "$1"
}

demo() {
    /usr/bin/python3 tests/demo/demo.py --program "$program" --bundle "$bundle" "$@"
}

bash tests/demo/media.sh "$cache/media"
case ${1:-} in
    one)
        clip=$cache/clip-$2-$composer
        compose "$2" "$clip"
        demo --clip "$clip"
        ;;
    many)
        failed=0
        clip=$(mktemp -d)
        trap 'rm -rf "$clip"' EXIT
        for seed in $(seq 1 "$2"); do
            # A clip is 70 MB of raw video: compose, judge, forget.
            compose "$seed" "$clip/$seed" 2>/dev/null
            demo --clip "$clip/$seed" --full-speed --quiet || failed=$((failed + 1))
            rm -rf "${clip:?}/$seed"
        done
        printf '%s of %s clips passed\n' "$(($2 - failed))" "$2"
        [[ $failed -eq 0 ]]
        ;;
    *)
        printf 'usage: run.sh one SEED | many N\n' >&2
        exit 2
        ;;
esac
