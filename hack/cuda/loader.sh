#!/bin/sh
# Makes bin/cuda/libcuda.a, which t2-cuda is linked with instead of a driver: see
# runtime/backend/cuda/libcuda. It needs a C compiler, and nothing of NVIDIA's.
set -eu
cd "$(dirname "$0")/../.."
source=runtime/backend/cuda/libcuda
out=bin/cuda
if [ -e "$out/libcuda.a" ] && [ -z "$(find "$source" hack/cuda/loader.sh -newer "$out/libcuda.a" -print -quit)" ]; then
	exit 0
fi
mkdir -p "$out"
"${CC:-cc}" -O2 -fPIC -Wall -Wextra -Werror -c "$source/loader.c" -o "$out/loader.o"
rm -f "$out/libcuda.a"
ar rcs "$out/libcuda.a" "$out/loader.o"
rm "$out/loader.o"
echo "Made $out/libcuda.a, which finds the driver when the program starts"
