#!/usr/bin/env bash
# Measures the interpreter: nanoseconds of one host thread for each warp instruction,
# by kind, and for a whole product in tiles. Needs build.sh to have run.
set -euo pipefail
cd "$(dirname "$0")"
./build.sh --objects
out=${SOFTCUDA_OUT:-../../bin/softcuda}
mkdir -p "$out/tests"
"${CXX:-g++}" -std=c++20 -O1 -pthread -Isrc "-DSOFTCUDA_TESTS=\"$PWD/tests\"" -o "$out/tests/bench" tests/bench.cpp "$out"/objects/exec_*.o "$out"/objects/ptx_*.o "$out"/objects/memory.o
"$out/tests/bench"
