#!/usr/bin/env bash
# Writes registers, spills and occupancy of every kernel into kernels/README.md, or
# with -check compares; fails where a hot kernel spills. CUDA_TOOLKIT=FOLDER as in
# kernels.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
toolkit=${CUDA_TOOLKIT:-bin/cudatk}
[ -n "${CUDA_TOOLKIT:-}" ] || hack/cuda/toolkit.sh "$toolkit"
echo "==> kernels: registers, spills and occupancy"
go run ./hack/cuda/ptx ptxas -toolkit "$toolkit" "$@"
