#!/usr/bin/env bash
# run test | bench: the tests, or the benchmarks, of the CUDA backend on this machine's
# GPU. It stands beside the binaries that hack/cuda/gpu.sh makes.
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
  exit $failed
  ;;
bench) ./cuda.test -test.run '^$' -test.bench . -test.benchtime 1s ;;
*) echo "usage: $0 test | bench" >&2; exit 2 ;;
esac
