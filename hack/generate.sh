#!/usr/bin/env bash
# Regenerates everything that is generated: deep copies and apply configurations
# of the API, CRDs, the manager's role from the controllers' markers, and the
# chart's copies of them.
# hack/verify.sh fails if what it writes is not what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${T2_BIN:-bin}"
mkdir -p "$bin"
bin="$(cd "$bin" && pwd)"
go build -C hack/tools -o "$bin/controller-gen" sigs.k8s.io/controller-tools/cmd/controller-gen

"$bin/controller-gen" object applyconfiguration paths=./api/...
"$bin/controller-gen" crd paths=./api/... output:crd:artifacts:config=config/crd/bases
"$bin/controller-gen" rbac:roleName=manager paths=./controllers/... output:rbac:artifacts:config=config/rbac
hack/chart.sh
