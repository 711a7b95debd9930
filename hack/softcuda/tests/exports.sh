#!/usr/bin/env bash
# The library exports exactly what include/cuda.h and include/softcuda.h declare, and
# src/driver/entries.inc names every entry.
# Usage: exports.sh LIBRARY
set -euo pipefail
library=$(realpath "$1")
cd "$(dirname "$0")/.."
declared=$(sed -n 's/^CUresult CUDAAPI \(cu[A-Za-z0-9_]*\)(.*/\1/p' include/cuda.h | LC_ALL=C sort)
table=$(sed -n 's/^ENTRY(\([A-Za-z0-9_]*\),.*/\1/p' src/driver/entries.inc | LC_ALL=C sort)
extra=$(grep -oE '\bsoftcuda[A-Z][A-Za-z]*\(' include/softcuda.h | tr -d '(' | LC_ALL=C sort -u)
exported=$(nm -D --defined-only "$library" | awk '$2 ~ /[TDBRVW]/ { print $3 }' | LC_ALL=C sort)

diff <(echo "$declared") <(echo "$table") >&2 || { echo "exports.sh: cuda.h (<) and entries.inc (>) differ" >&2; exit 1; }
diff <(printf '%s\n' "$declared" "$extra" | LC_ALL=C sort) <(echo "$exported") | head -20 >&2 ||
  { echo "exports.sh: the headers (<) and what $library exports (>) differ" >&2; exit 1; }
echo "exports.sh: $(wc -l <<<"$exported") symbols, as declared"
