#!/usr/bin/env bash
# Compiles tests/cu/*.cu to tests/ptx/*.ptx with a CUDA 12.4 toolkit (the folder that
# hack/cuda/toolkit.sh makes): tests/cu/regenerate.sh TOOLKIT. Paths and build numbers
# are taken out, so that the result depends on the sources only.
set -euo pipefail
toolkit=${1:?usage: regenerate.sh TOOLKIT}
cd "$(dirname "$0")"
mkdir -p ../ptx
for source in *.cu; do
  name=${source%.cu}
  "$toolkit/bin/nvcc" -arch=compute_80 -ptx -O3 --fmad=false -std=c++17 "$source" -o "../ptx/$name.ptx.part"
  sed -e '/^\/\/ Compiler Build ID/d' -e '/^\/\/ Cuda compilation tools/d' "../ptx/$name.ptx.part" >"../ptx/$name.ptx"
  rm "../ptx/$name.ptx.part"
done
