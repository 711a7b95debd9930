#!/usr/bin/env bash
# Compares include/cuda.h with NVIDIA's header of CUDA 12.4: every constant, the size of
# every type, the offset, size and type of every field, the type of every entry, and what
# every name without a version stands for. One generated program prints all that; it is
# compiled against each header, and the two outputs must be the same.
#
# Usage: hack/softcuda/check-header.sh TOOLKIT   (a folder with usr/include/cuda.h or include/cuda.h)
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 TOOLKIT" >&2; exit 2; }
toolkit=$(cd "$1" && pwd)
cd "$(dirname "$0")"
for theirs in "$toolkit/usr/include" "$toolkit/include" "$toolkit/usr/lib/cuda/include"; do
  [ -f "$theirs/cuda.h" ] && break
done
[ -f "$theirs/cuda.h" ] || { echo "$0: no cuda.h under $toolkit" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '
function say(what) { print "  " what }
FILENAME ~ /entries\.inc/ {
  if (match($0, /^ENTRY\([^)]*\)/)) {
    split(substr($0, 7, RLENGTH - 7), part, ", ")
    say("ENTRY(" part[1] ");")
  }
  next
}
/^#define cu[A-Z]/ { say("NAME(" $2 ");"); next }
/^#define CU(DA)?_[A-Z0-9_]+ +[^ ]/ { say("CONSTANT(" $2 ");"); next }
/^  CU(DA)?_[A-Za-z0-9_]+ = / && depth == 1 { say("CONSTANT(" $1 ");"); next }
/^typedef (struct|union|enum) [A-Za-z0-9_]+ \{/ { depth = 1; aggregate = $2 != "enum"; fields = 0; next }
depth == 1 && /^\} / {
  depth = 0
  type = $2
  sub(/;/, "", type)
  say("TYPE(" type ");")
  for (i = 0; aggregate && i < fields; i++) say("FIELD(" type ", " field[i] ");")
  next
}
depth >= 1 {
  opened = gsub(/\{/, "{")
  closed = gsub(/\}/, "}")
  depth += opened - closed
  # A field, or the end of an inner struct, at the outer level.
  if (aggregate && depth == 1 && /;/ && !opened) {
    name = $0
    sub(/(\[.*)?;.*/, "", name)
    sub(/.*[ *}]/, "", name)
    field[fields++] = name
  }
  next
}
/^typedef .*;/ {
  line = $0
  if (match(line, /\(\*[A-Za-z0-9_]+\)/)) name = substr(line, RSTART + 2, RLENGTH - 3)
  else { name = $NF; gsub(/[*;]/, "", name) }
  say("TYPE(" name ");")
}
' include/cuda.h include/softcuda_types.h src/driver/entries.inc >"$work/facts.inc"

cat >"$work/probe.cpp" <<'PROBE'
#include <cuda.h>
#include <cstddef>
#include <cstdio>
#include <typeinfo>
#define TEXT_OF(x) #x
#define EXPANDED(x) TEXT_OF(x)
#define CONSTANT(what) std::printf("constant %s = %lld\n", #what, (long long)(what))
#define TYPE(what) std::printf("type %s: %zu bytes, %s\n", #what, sizeof(what), typeid(what).name())
#define FIELD(type, what) \
  std::printf("field %s.%s: at %zu, %zu bytes\n", #type, #what, offsetof(type, what), sizeof(((type *)0)->what))
#define ENTRY(what) std::printf("entry %s: %s\n", #what, typeid(decltype(&what)).name())
#define NAME(what) std::printf("name %s stands for %s\n", #what, EXPANDED(what))
int main() {
#include "facts.inc"
}
PROBE
facts=$(wc -l <"$work/facts.inc")
[ "$facts" -gt 1000 ] || { echo "$0: only $facts facts were found in our header" >&2; exit 1; }

for side in ours theirs; do
  include=$theirs
  [ $side = ours ] && include=$PWD/include
  ${CXX:-g++} -std=c++17 -w -I"$include" -I"$work" "$work/probe.cpp" -o "$work/$side" || {
    echo "$0: the facts of our header do not compile against $include/cuda.h" >&2
    exit 1
  }
  "$work/$side" >"$work/$side.txt"
done
if ! diff "$work/ours.txt" "$work/theirs.txt" >"$work/diff"; then
  echo "$0: include/cuda.h (<) differs from $theirs/cuda.h (>):" >&2
  cat "$work/diff" >&2
  exit 1
fi
# The version that brought each entry, which cuGetProcAddress goes by.
if [ -f "$theirs/cudaTypedefs.h" ]; then
  grep -oE 'PFN_cu[A-Za-z0-9]+(_ptsz)?_v[0-9]+' "$theirs/cudaTypedefs.h" | LC_ALL=C sort -u >"$work/known"
  sed -n 's/^ENTRY(.*, \(.*\), \(.*\))$/PFN_\1_v\2/p' src/driver/entries.inc | LC_ALL=C sort -u >"$work/ours"
  if LC_ALL=C comm -23 "$work/ours" "$work/known" | grep .; then
    echo "$0: these names and versions of src/driver/entries.inc are not in $theirs/cudaTypedefs.h" >&2
    exit 1
  fi
fi
echo "include/cuda.h agrees with $theirs/cuda.h in $facts facts"
