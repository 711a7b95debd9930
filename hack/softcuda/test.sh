#!/usr/bin/env bash
# Builds the software driver and runs its tests: the interpreter's (tests/interp_*.cpp,
# one program linked with the objects) and the driver's (tests/driver*.sh, if any).
# Arguments choose tests of the interpreter by a part of their name.
set -euo pipefail
cd "$(dirname "$0")"
./build.sh --objects
out=${SOFTCUDA_OUT:-../../bin/softcuda}
mkdir -p "$out/tests"
out=$(cd "$out" && pwd)
cxx=${CXX:-g++}
flags=(-std=c++20 -O1 -g1 -ffp-contract=off -Wall -Wextra -pthread -Isrc "-DSOFTCUDA_TESTS=\"$PWD/tests\"")

objects=()
for source in tests/interp_*.cpp; do
  object=$out/tests/$(basename "${source%.cpp}").o
  objects+=("$object")
  if [ ! "$object" -nt "$source" ] || [ ! "$object" -nt tests/interp_test.h ] || [ ! "$object" -nt src/exec/exec.h ] || [ ! "$object" -nt src/memory.h ]; then
    echo "$source $object"
  fi
done > "$out/tests/todo"
while read -r source object; do
  "$cxx" "${flags[@]}" -c "$source" -o "$object"
done < "$out/tests/todo"

# The interpreter does not need the driver's entry points.
parts=()
for source in src/memory.cpp src/exec/*.cpp src/ptx/*.cpp; do
  name=${source#src/}
  name=${name//\//_}
  parts+=("$out/objects/${name%.cpp}.o")
done
"$cxx" -pthread -o "$out/tests/interpreter" "${objects[@]}" "${parts[@]}"
"$out/tests/interpreter" "$@"
[ $# -eq 0 ] || exit 0
for script in tests/driver*.sh; do
  [ -x "$script" ] || continue
  echo "==> $script"
  "$script"
done
