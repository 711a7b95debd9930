#!/usr/bin/env bash
# Tests of the driver: its exports, each driver_*.cpp, and a Go program that uses
# gorgonia.org/cu. Builds the library first if it is stale.
# Usage: driver.sh [NAME…]   (exports, header, gorgonia, or NAME of driver_NAME.cpp; default: all)
# CUDA_TOOLKIT names the folder of NVIDIA's toolkit for "header", bin/cudatk by default;
# without it our header is compared with nothing, and the output says so.
set -euo pipefail
toolkit=${CUDA_TOOLKIT:+$(realpath "$CUDA_TOOLKIT")}
cd "$(dirname "$0")"
../build.sh
out=$(cd "${SOFTCUDA_OUT:-../../../bin/softcuda}" && pwd)
mkdir -p "$out/tests"
# The tests set the knobs that they need.
unset "${!SOFTCUDA_@}" CUDA_LAUNCH_BLOCKING
export LD_LIBRARY_PATH=$out${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

compiled() { # NAME: builds driver_NAME.cpp when it or what it includes is newer
  local source=driver_$1.cpp program=$out/tests/driver_$1 file
  for file in "$source" driver.h ../include/*.h ../src/driver/entries.inc ../exports.map; do
    [ "$program" -nt "$file" ] && continue
    "${CXX:-g++}" -std=c++20 -O1 -g -Wall -Wextra -Wno-cast-function-type -pthread -I../include "$source" -o "$program" -L"$out" -lcuda
    break
  done
}

gorgonia() {
  local program=$out/tests/vectoradd says
  CGO_ENABLED=1 CGO_CFLAGS="-I$PWD/../include" CGO_LDFLAGS="-L$out" go build -C gorgonia -o "$program" .
  SOFTCUDA_STRICT=1 "$program"
  SOFTCUDA_STRICT=1 SOFTCUDA_CAPABILITY=8.0 "$program"
  # Errors come back as errors; without a device gorgonia.org/cu ends the process in its init.
  refused SOFTCUDA_DEVICES=0 "Error in initialization"
  refused SOFTCUDA_FAIL=cuMemAlloc_v2:2:2 "allocating: OutOfMemory"
  refused SOFTCUDA_FAIL=cuLaunchKernel:1:719 "launching: LaunchFailed"
}

refused() { # KNOB WORDS: vectoradd must fail and say the words
  if env "$1" "$out/tests/vectoradd" >"$out/tests/said" 2>&1 || ! grep -q "$2" "$out/tests/said"; then
    echo "driver.sh: with $1 vectoradd did not fail with \"$2\":" >&2
    cat "$out/tests/said" >&2
    return 1
  fi
}

failed=0
header() {
  : "${toolkit:=../../../bin/cudatk}"
  if [ -d "$toolkit" ]; then
    ../check-header.sh "$toolkit" &&
      "${CXX:-g++}" -std=c++20 -fsyntax-only -I"$toolkit/usr/include" -I"$toolkit/include" -I../../../runtime/backend/cuda/cumath ../libraries/check.cpp &&
      { [ ! -x "$toolkit/bin/nvcc" ] || ../libraries/regenerate.sh "$toolkit" --check; } &&
      echo "driver.sh: what is called of cuBLAS and cuSOLVER is as NVIDIA's headers have it"
  else
    echo "driver.sh: include/cuda.h is not compared with NVIDIA's: there is no $toolkit (hack/cuda/toolkit.sh makes it)"
  fi
}

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(exports header basic memory stream launch graph knobs gorgonia)
for name in "${names[@]}"; do
  case $name in
  exports) ./exports.sh "$out/libcuda.so.1" || failed=1 ;;
  header) header || failed=1 ;;
  gorgonia) gorgonia || failed=1 ;;
  *) compiled "$name" && "$out/tests/driver_$name" 2>"$out/tests/driver_$name.log" ||
    { grep -A2 -E '^(driver_.*\.cpp:|FAIL)' "$out/tests/driver_$name.log" >&2 || cat "$out/tests/driver_$name.log" >&2; failed=1; } ;;
  esac
done
exit $failed
