#!/usr/bin/env bash
# Compiles gemm.cu to gemm.ptx with a CUDA 12.4 toolkit (the folder that
# hack/cuda/toolkit.sh makes): libraries/regenerate.sh TOOLKIT. Build numbers are taken
# out, so that the result depends on the source only.
set -euo pipefail
toolkit=$(realpath "${1:?usage: regenerate.sh TOOLKIT}")
cd "$(dirname "$0")"
trap 'rm -f gemm.ptx.part' EXIT
"$toolkit/bin/nvcc" -arch=compute_80 -ptx -O3 -std=c++17 gemm.cu -o gemm.ptx.part
sed -e '/^\/\/ Compiler Build ID/d' -e '/^\/\/ Cuda compilation tools/d' gemm.ptx.part >gemm.ptx
