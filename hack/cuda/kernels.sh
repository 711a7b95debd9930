#!/usr/bin/env bash
# Makes the PTX of kernels/*.cu with the pinned toolkit: all that is not current, or
# the units named as arguments in any case. CUDA_TOOLKIT=FOLDER is used as it is;
# by default the toolkit is fetched into bin/cudatk.
set -euo pipefail
cd "$(dirname "$0")/../.."
toolkit=${CUDA_TOOLKIT:-bin/cudatk}
[ -n "${CUDA_TOOLKIT:-}" ] || hack/cuda/toolkit.sh "$toolkit"
echo "==> kernels: compiling what is not current"
go run ./hack/cuda/ptx build -toolkit "$toolkit" "$@"
