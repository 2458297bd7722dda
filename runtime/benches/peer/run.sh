#!/usr/bin/env bash
# girasol beside the peer on this machine: `make bench-peer MODELS=FOLDER` after `make build`.
# Python packages go into a folder under .cache; the system is left alone.
set -euo pipefail
cd "$(dirname "$0")/../../.."

models=${1:-}
if [[ ! -e $models/yamnet/yamnet_spectra_in.tflite || ! -e $models/nanodet-m/nanodet_m.bin ]]; then
    printf 'bench-peer: MODELS=FOLDER must hold yamnet/yamnet_spectra_in.tflite and nanodet-m/nanodet_m.{param,bin}\n' >&2
    exit 2
fi
packages=.cache/peer/packages
requirements=runtime/benches/peer/requirements.txt
if ! cmp --silent "$requirements" "$packages/installed.txt"; then
    printf '==> pip install -r %s (into %s)\n' "$requirements" "$packages" >&2
    rm -rf "$packages"
    /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --target "$packages" --requirement "$requirements"
    cp "$requirements" "$packages/installed.txt"
fi
clip=.cache/demo/clip-bench
bash tests/demo/media.sh .cache/demo/media
[[ -e $clip/truth.json ]] ||
    /usr/bin/python3 tests/demo/compose.py --media .cache/demo/media --out "$clip" --seed 1
PYTHONPATH=$packages /usr/bin/python3 runtime/benches/peer/compare.py --models "$models" --clip "$clip/demo.y4m" \
    --program "${CARGO_TARGET_DIR:-target}/release/girasol"
