#!/usr/bin/env bash
# Runs every static check with pinned tools: golangci-lint with kube-api-linter
# built in, and govulncheck. Arguments are packages; all of them by default.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${T2_BIN:-bin}"
mkdir -p "$bin"
bin="$(cd "$bin" && pwd)"
packages=("$@")
if [ ${#packages[@]} -eq 0 ]; then packages=(./...); fi

echo "==> golangci-lint and kube-api-linter"
go build -C hack/tools -o "$bin/lint" ./lint
"$bin/lint" run "${packages[@]}"

echo "==> govulncheck"
go build -C hack/tools -o "$bin/govulncheck" golang.org/x/vuln/cmd/govulncheck
"$bin/govulncheck" "${packages[@]}"
