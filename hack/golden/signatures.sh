#!/usr/bin/env bash
# Goldens of runtime/source: a model as cosign signs it in a registry, by keys of four kinds
# and in each way that it knows.
#
#     hack/golden/signatures.sh
#
# Needs openssl, and cosign 3 on PATH or named by COSIGN (made with 3.1.1).
set -euo pipefail
cd "$(dirname "$0")/../.."

cosign=$(command -v "${COSIGN:-cosign}") || { echo "signatures: there is no ${COSIGN:-cosign}: COSIGN=… names cosign 3" >&2; exit 1; }
go test -count=1 -run 'TestWhatCosign' ./runtime/source -cosign "$(realpath "$cosign")"
