#!/usr/bin/env bash
# Puts Prometheus and promtool, its tool, into the folder DIR (bin): out of Debian's package,
# of which nothing is installed.
#   hack/monitoring/prometheus.sh [DIR]
set -euo pipefail
dir=$(realpath "${1:-bin}")
[ -x "$dir/promtool" ] && [ -x "$dir/prometheus" ] && exit 0
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download prometheus >/dev/null 2>&1; then
  echo "prometheus.sh: apt-get could not download the package prometheus: put a prometheus and a promtool into $dir" >&2
  exit 1
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool ./usr/bin/prometheus
mv usr/bin/promtool usr/bin/prometheus "$dir"
