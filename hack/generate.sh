#!/usr/bin/env bash
# Regenerates everything that is generated: deep copies and apply configurations
# of the API, CRDs, and the manager's role from the controllers' markers.
# `hack/generate.sh --check` changes nothing and fails if something is stale.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${T2_BIN:-bin}"
mkdir -p "$bin"
bin="$(cd "$bin" && pwd)"
go build -C hack/tools -o "$bin/controller-gen" sigs.k8s.io/controller-tools/cmd/controller-gen

generate() {
	"$bin/controller-gen" object applyconfiguration paths=./api/...
	"$bin/controller-gen" crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	"$bin/controller-gen" rbac:roleName=manager paths=./controllers/... output:rbac:artifacts:config=config/rbac
}

if [ "${1:-}" = "--check" ]; then
	before="$(mktemp -d)"
	trap 'rm -rf "$before"' EXIT
	cp -r api config "$before/"
	generate
	if ! diff -r "$before/api" api || ! diff -r "$before/config" config; then
		echo "generated files were stale; run hack/generate.sh and commit the result" >&2
		exit 1
	fi
else
	generate
fi
