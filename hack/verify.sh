#!/usr/bin/env bash
# Fails if generated code, formatting or go.mod files are not what the tools
# would write now. Leaves the tree as it was.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "==> formatting"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  echo "verify: not formatted by gofmt, run gofmt -w on: $unformatted" >&2
  exit 1
fi

echo "==> go.mod"
go mod tidy -diff
go -C hack/tools mod tidy -diff
go -C hack/cluster mod tidy -diff
go -C hack/monitoring mod tidy -diff
go -C hack/monitoring/adapter mod tidy -diff
go -C hack/gitops mod tidy -diff

echo "==> kernels' PTX"
# Digests tell without the toolkit whether PTX is current. Where it is there, and
# always in CI, it says so to the byte.
toolkit=${CUDA_TOOLKIT:-bin/cudatk}
if [ "${CI:-}" = true ] && [ -z "${CUDA_TOOLKIT:-}" ] && ! hack/cuda/toolkit.sh "$toolkit"; then
  echo "verify: the CUDA toolkit could not be fetched: PTX is compared by its digests alone" >&2
fi
if [ -x "$toolkit/bin/nvcc" ]; then
  go run ./hack/cuda/ptx verify -toolkit "$toolkit"
  go run ./hack/cuda/ptx ptxas -toolkit "$toolkit" -check
else
  go run ./hack/cuda/ptx verify
fi

echo "==> generated code (controller-gen)"
generated=(api config/crd config/rbac config/chart controllers/kubectl-t2/internal/doctor)
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -a "${generated[@]}" "$before"
hack/generate.sh
stale=0
for dir in "${generated[@]}"; do
  diff -ru "$before/$(basename "$dir")" "$dir" || stale=1
done
if [ "$stale" -ne 0 ]; then
  for dir in "${generated[@]}"; do rm -rf "$dir" && cp -a "$before/$(basename "$dir")" "$dir"; done
  echo "verify: generated code was not current: run make generate and commit it" >&2
  exit 1
fi
