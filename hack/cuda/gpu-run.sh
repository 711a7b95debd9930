#!/usr/bin/env bash
# run test | sanitize | bench: the tests of the CUDA backend on this machine's GPU, the
# tests of each kernel under compute-sanitizer, or the benchmarks. It stands beside the
# binaries that hack/cuda/gpu.sh makes.
set -euo pipefail
cd "$(dirname "$0")"
export T2_BACKEND=cuda
./t2-cuda doctor
case ${1:-test} in
test)
  failed=0
  here=$PWD
  for package in backend/cuda model engine train expert; do
    echo "==> $package"
    (cd "runtime/$package" && "$here/${package##*/}.test" -test.timeout 10m) || failed=1
  done
  echo "==> kernels"
  ./kernels.test -test.timeout 10m || failed=1
  exit $failed
  ;;
sanitize)
  sanitizer=$PWD/compute-sanitizer/compute-sanitizer
  [ -x "$sanitizer" ] || sanitizer=$(command -v compute-sanitizer) || {
    echo "compute-sanitizer is not here: build this folder where CUDA's toolkit is (hack/cuda/toolkit.sh), or install it" >&2
    exit 1
  }
  failed=0
  # Every kernel, of the shapes of its own tests: memory first, which the others build on.
  for tool in memcheck initcheck synccheck racecheck; do
    echo "==> $tool"
    "$sanitizer" --tool "$tool" --error-exitcode 1 --launch-timeout 120 ./kernels.test -test.timeout 30m || failed=1
  done
  exit $failed
  ;;
bench)
  ./cuda.test -test.run '^$' -test.bench . -test.benchtime 1s
  # A model of random weights, Llama 3 8B's shape or T2_SHAPES: prefill, decoding, both passes and the
  # training step, and the same in PyTorch where that is.
  python=$(command -v python3 || true)
  [ -n "$python" ] && "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || python=
  echo "==> a whole model${python:+, and PyTorch}"
  for mode in "" --passes --train; do
    ./bench --backend cuda --dtype bf16 --rounds 3 --shapes "${T2_SHAPES:-8B}" --dir "${TMPDIR:-/tmp}/t2-bench" ${python:+--python "$python"} $mode
  done
  ;;
*) echo "usage: $0 test | sanitize | bench" >&2; exit 2 ;;
esac
