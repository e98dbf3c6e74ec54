#!/bin/sh
# The wheel in a folder with an extra, in an environment of its own: docker/install.sh FOLDER EXTRA VENV.
set -eu
"${PYTHON:-python3}" -m venv "$3"
"$3/bin/python" -m pip install --no-cache-dir "$(ls "$1"/audio_fusion_engine-*.whl)[$2]"
"$3/bin/fusion-engine" --version
