#!/usr/bin/env bash
# Runs every static check with pinned tools: golangci-lint with kube-api-linter
# built in on this module and on the local cluster's, and govulncheck. Arguments
# are packages of this module; all of them by default.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${T2_BIN:-bin}"
mkdir -p "$bin"
bin="$(cd "$bin" && pwd)"
packages=("$@")
if [ ${#packages[@]} -eq 0 ]; then packages=(./...); fi

echo "==> golangci-lint and kube-api-linter (building them takes 2 minutes the first time)"
go build -C hack/tools -o "$bin/lint" ./lint
# What is linted is compiled first, as `make build` and `make build-cuda` do it: once for both.
GOFLAGS="$(go env GOFLAGS) -trimpath"
export GOFLAGS
CGO_ENABLED=0 "$bin/lint" run "${packages[@]}"
# What is for GPUs is built with a tag, against our header of the driver's API.
hack/cuda/loader.sh
CGO_CFLAGS="-I$PWD/hack/softcuda/include" CGO_LDFLAGS="-L$PWD/bin/cuda" \
  "$bin/lint" run --build-tags cuda ./runtime/backend/cuda/... ./runtime/backend/registry/... ./test/kernels/...
(cd hack/cluster && "$bin/lint" run -c ../../.golangci.yml ./t2cluster/... ./pause/...)
(cd hack/gitops && "$bin/lint" run -c ../../.golangci.yml ./...)
(cd hack/cluster/kube && "$bin/lint" run -c ../../../.golangci.yml ./softgpu/...)

echo "==> govulncheck"
go build -C hack/tools -o "$bin/govulncheck" golang.org/x/vuln/cmd/govulncheck
# The database is pinned too, so that unchanged code gives an unchanged verdict
# and no service need be reached: it is a Go module. Move the version forward with
# the dependencies; GOVULNDB=https://vuln.go.dev asks today's.
vulndb=golang.org/x/vulndb@v0.0.0-20261105234957-e22db6528018
if [ -z "${GOVULNDB:-}" ]; then
  if ! answer=$(cd / && go mod download -json "$vulndb"); then
    echo "lint: downloading $vulndb: $answer" >&2
    exit 1
  fi
  dir=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$/\1/p' <<<"$answer")
  GOVULNDB="file://$dir/data/osv"
fi
"$bin/govulncheck" -db "$GOVULNDB" "${packages[@]}"
