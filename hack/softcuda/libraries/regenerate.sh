#!/usr/bin/env bash
# Compiles gemm.cu to gemm.ptx with a CUDA 12.4 toolkit (the folder that
# hack/cuda/toolkit.sh makes), or says with --check whether it is current:
# libraries/regenerate.sh TOOLKIT [--check]. Build numbers are taken out, so that the
# result depends on the source only.
set -euo pipefail
toolkit=$(realpath "${1:?usage: regenerate.sh TOOLKIT [--check]}")
cd "$(dirname "$0")"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
"$toolkit/bin/nvcc" -arch=compute_80 -ptx -O3 -std=c++17 gemm.cu -o "$made/raw"
sed -e '/^\/\/ Compiler Build ID/d' -e '/^\/\/ Cuda compilation tools/d' "$made/raw" >"$made/gemm.ptx"
if [ "${2:-}" != --check ]; then
  cp "$made/gemm.ptx" gemm.ptx
elif ! diff -u gemm.ptx "$made/gemm.ptx" >&2; then
  echo "regenerate.sh: gemm.ptx is not what gemm.cu makes: run hack/softcuda/libraries/regenerate.sh TOOLKIT" >&2
  exit 1
fi
