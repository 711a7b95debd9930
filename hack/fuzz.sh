#!/usr/bin/env bash
# Fuzzes every Fuzz function, of this module and the local cluster's, for the
# given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
  module=.
  case "$file" in ./hack/cluster/*) module=hack/cluster ;; esac
  package=./$(realpath --relative-to="$module" "$(dirname "$file")")
  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | cut -d' ' -f2 | while read -r name; do
    echo "==> $name ($(dirname "$file"), $time)"
    # Minimising is bounded by tries: an input that needs a server to reproduce
    # would otherwise be minimised past the end of the time.
    go -C "$module" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x "$package"
  done
done
