#!/usr/bin/env bash
# Puts promtool, Prometheus' own tool, into the folder DIR (bin): out of Debian's package,
# of which nothing is installed.
#   hack/monitoring/promtool.sh [DIR]
set -euo pipefail
dir=$(realpath "${1:-bin}")
[ -x "$dir/promtool" ] && exit 0
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download prometheus >/dev/null 2>&1; then
  echo "promtool.sh: apt-get could not download the package prometheus: put a promtool into $dir, or name one by PROMTOOL" >&2
  exit 1
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
mv usr/bin/promtool "$dir/promtool"
