#!/usr/bin/env bash
# Builds the tests and benchmarks of the CUDA backend as binaries that need neither Go
# nor a network where they run: a folder to carry to a machine with a GPU.
#
#   hack/cuda/gpu.sh build FOLDER
set -euo pipefail
[ "${1:-}" = build ] && [ -n "${2:-}" ] || { echo "usage: $0 build FOLDER" >&2; exit 2; }
cd "$(dirname "$0")/../.."
mkdir -p "$2"
out=$(cd "$2" && pwd)
hack/cuda/loader.sh
export CGO_ENABLED=1 CGO_CFLAGS="-O2 -I$PWD/hack/softcuda/include" CGO_LDFLAGS="-L$PWD/bin/cuda"
for package in backend/cuda model engine train expert; do
  name=${package##*/}
  echo "==> $name"
  go test -tags cuda -c -o "$out/$name.test" "./runtime/$package"
  # Where the package is in the tree, because tests name what they read from there.
  rm -rf "${out:?}/runtime/$package" && mkdir -p "$out/runtime/$package"
  [ ! -d "runtime/$package/testdata" ] || cp -r "runtime/$package/testdata" "$out/runtime/$package/"
done
echo "==> kernels"
go test -tags cuda -c -o "$out/kernels.test" ./test/kernels
# NVIDIA's checker of memory and races, where the toolkit is (hack/cuda/toolkit.sh).
toolkit=${CUDA_TOOLKIT:-bin/cudatk}/usr/lib/nvidia-cuda-toolkit/compute-sanitizer
rm -rf "${out:?}/compute-sanitizer"
if [ -d "$toolkit" ]; then
  cp -r "$toolkit" "$out/compute-sanitizer" && rm -rf "$out/compute-sanitizer/include"
fi
mkdir -p "$out/config/samples/demo"
rm -rf "$out/config/samples/demo/model" && cp -r config/samples/demo/model "$out/config/samples/demo/"
go build -tags cuda -trimpath -o "$out/t2-cuda" ./runtime
cp hack/cuda/gpu-run.sh "$out/run"
echo "Made $out: carry it to a machine with an NVIDIA driver, and there say run test, or run bench"
