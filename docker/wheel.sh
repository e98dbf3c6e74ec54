#!/bin/sh
# The wheel of a source tree: docker/wheel.sh SOURCE FOLDER. $PYTHON needs pip; a C++ compiler and
# CMake, and nvcc unless FUSION_ENGINE_CUDA=OFF, have to be there.
set -eu
"${PYTHON:-python3}" -m pip wheel --no-cache-dir --no-deps --wheel-dir "$2" "$1"
