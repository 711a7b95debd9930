#!/usr/bin/env bash
# Builds bin/softcuda/libcuda.so.1, the software driver for tests, and in
# bin/softcuda/libraries the stand-ins for NVIDIA's libraries that run on it. A second run
# that finds nothing changed does nothing. Options: --objects builds the objects only.
set -euo pipefail
cd "$(dirname "$0")"
out=${SOFTCUDA_OUT:-../../bin/softcuda}
cxx=${CXX:-g++}
mkdir -p "$out/objects"
out=$(cd "$out" && pwd)

flags=(-std=c++20 -O3 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -fno-fast-math -fno-math-errno -fno-trapping-math
  -Wall -Wextra -Wno-unknown-pragmas -Wno-ignored-attributes -Wno-restrict -pthread -Iinclude -Isrc)
case $(uname -m) in
x86_64) flags+=(-march=x86-64-v3) ;;
esac

# An object is stale when its flags changed or a file that it was made of is newer.
stamp="$cxx ${flags[*]}"
if [ "$(cat "$out/objects/flags" 2>/dev/null || true)" != "$stamp" ]; then
  rm -f "$out"/objects/*.o
  echo "$stamp" >"$out/objects/flags"
fi
stale() {
  local object=$1 made=${1%.o}.d word
  [ -f "$object" ] && [ -f "$made" ] || return 0
  for word in $(sed -e 's/^[^:]*://' -e 's/\\$//' "$made"); do
    [ "$object" -nt "$word" ] || return 0
  done
  return 1
}

objects=() todo=()
while read -r source; do
  name=${source#src/}
  object=$out/objects/${name//\//_}
  object=${object%.cpp}.o
  objects+=("$object")
  if stale "$object"; then todo+=("$source" "$object"); fi
done < <(find src -name '*.cpp' | LC_ALL=C sort)

if [ ${#todo[@]} -gt 0 ]; then
  export cxx
  printf '%s\0' "${todo[@]}" | xargs -0 -n 2 -P "${SOFTCUDA_JOBS:-$(nproc)}" bash -c '
    source=$1 object=$2; shift 2
    '"$(printf '%q ' "$cxx" "${flags[@]}")"' -MMD -MF "${object%.o}.d" -c "$source" -o "$object.part" && mv "$object.part" "$object"' build
fi
[ "${1:-}" = --objects ] && exit 0

library=$out/libcuda.so.1
newest=0
for object in "${objects[@]}" exports.map; do
  if [ ! "$library" -nt "$object" ]; then newest=1; fi
done
if [ $newest = 1 ]; then
  "$cxx" -shared -Wl,-soname,libcuda.so.1 -Wl,-z,defs -Wl,--version-script=exports.map -pthread -o "$library.part" "${objects[@]}" -static-libstdc++ -static-libgcc
  mv "$library.part" "$library"
  ln -sf libcuda.so.1 "$out/libcuda.so"
fi

# The stand-ins: one file each, and what they share.
mkdir -p "$out/libraries"
for name in cublas:libcublas.so.12 cusolver:libcusolver.so.11; do
  source=libraries/${name%%:*}.cpp library=$out/libraries/${name#*:}
  for file in "$source" libraries/library.h libraries/gemm.ptx include/cuda.h exports.map ../../runtime/backend/cuda/cumath/calls.h build.sh; do
    [ "$library" -nt "$file" ] && continue
    "$cxx" -std=c++20 -O2 -g1 -fPIC -fvisibility=hidden -Wall -Wextra -pthread "-DGEMM_PTX=\"$PWD/libraries/gemm.ptx\"" -shared \
      -Wl,-soname,"${name#*:}" -Wl,-z,defs -Wl,--version-script=exports.map "-Wl,-rpath,\$ORIGIN/.." -o "$library.part" "$source" -L"$out" -lcuda -static-libstdc++ -static-libgcc
    mv "$library.part" "$library"
    break
  done
done
