#!/usr/bin/env bash
# Instructions of LiteRT on the shipped encoders' networks in int8, on emulated arm64 CPUs, beside girasol's of the
# committed baseline. Needs PYTHON (default: python3) with onnx and ai-edge-litert for the conversion. Nothing is
# installed: an arm64 Python and LiteRT's arm64 wheel are fetched and unpacked below .cache/litert.
set -euo pipefail
cd "$(dirname "$0")/../.."
die() { printf 'count: %s\n' "$*" >&2; exit 1; }
python=${PYTHON:-python3}
litert=2.3.0
cache=$PWD/.cache/litert
root=$cache/root-$litert
packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libexpat1 zlib1g libffi8 libgcc-s1
    libstdc++6 libcrypt1 libbz2-1.0 liblzma5 libssl3 libuuid1)

fetch() {
    rm -rf "$root.new"
    mkdir -p "$root.new/debs" "$root.new/wheels" "$root.new/site"
    (cd "$root.new/debs" && apt-get download --quiet "${packages[@]/%/:arm64}" >&2) ||
        die 'cannot fetch arm64 packages: dpkg --add-architecture arm64; apt-get update'
    for package in "$root.new"/debs/*.deb; do dpkg-deb -x "$package" "$root.new"; done
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --dest "$root.new/wheels" \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
        "ai-edge-litert==$litert" numpy flatbuffers >&2
    for wheel in "$root.new"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root.new/site"; done
    mv "$root.new" "$root"
}

mkdir -p "$cache"
[[ -d $root ]] || fetch
{ read -r emulator; read -r plugin; } < <(cross/count/qemu.sh)
models=()
for graph in video_encoder audio_encoder; do
    "$python" cross/count/litert/convert.py models/bundle "$graph" "$cache/$graph.tflite"
    models+=("$graph=$cache/$graph.tflite")
done
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
# One thread: idle ones of NumPy's linear algebra would be counted, as they spin.
for cpu in cortex-a72 cortex-a76; do
    OPENBLAS_NUM_THREADS=1 PYTHONPATH=$root/site PYTHONDONTWRITEBYTECODE=1 \
        "$emulator" -L "$root" -cpu "$cpu" -plugin "$plugin" \
        "$root/usr/bin/python3.11" cross/count/litert/run.py "${models[@]}" | sed "s/^/$cpu /" >>"$counts"
done
python3 cross/count/compare.py peer cross/count/operators.tsv "$counts"
