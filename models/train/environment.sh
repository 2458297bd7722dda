#!/usr/bin/env bash
# Makes the training environment: a Python venv with CPU-only torch (about 1.2 GB of downloads instead of the 5.3 GB that
# torch's CUDA packages are). Does nothing when it is there already.
#
#   environment.sh DIR     DIR/bin/python can then run `python -m girasol_train`
set -euo pipefail
venv=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"

python=${PYTHON:-python3}
done_mark=$venv/girasol-train.done
# What the environment depends on; another content makes it anew.
wanted=$(cat pyproject.toml cpu_torch.py environment.sh | sha256sum | cut -d' ' -f1)

if [[ -f $done_mark && $(<"$done_mark") == "$wanted" ]]; then
    exit 0
fi
if ! "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    printf 'model-env: needs Python 3.11 or newer with venv (apt install python3-venv); PYTHON=... names another\n' >&2
    exit 1
fi
if ! command -v cc >/dev/null; then
    printf 'model-env: needs a C compiler (make setup)\n' >&2
    exit 1
fi
"$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$@"; }
pip --no-deps 'torch>=2.4'
pip filelock typing-extensions sympy networkx jinja2 fsspec 'setuptools>=77' numpy
"$venv/bin/python" cpu_torch.py
pip onnx onnxruntime onnxscript opencv-python-headless scipy soundfile tflite pytest ruff
pip --no-deps --no-build-isolation --editable .
"$venv/bin/python" -c 'import torch, girasol_train; print("model-env: torch", torch.__version__)'
printf '%s' "$wanted" > "$done_mark"
