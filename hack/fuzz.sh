#!/usr/bin/env bash
# Fuzzes every Fuzz function of the module for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | cut -d' ' -f2 | while read -r name; do
    echo "==> $name ($(dirname "$file"), $time)"
    # Minimising is bounded by tries: an input that needs a server to reproduce
    # would otherwise be minimised past the end of the time.
    go test -fuzzminimizetime 10x -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$(dirname "$file")"
  done
done
