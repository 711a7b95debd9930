#!/usr/bin/env bash
# Goldens of runtime/source: a model as cosign signs it in a registry, by keys of four kinds
# and in each way that it knows, and as OpenSSF's model-signing signs its folder.
#
#     hack/golden/signatures.sh
#
# Needs openssl, and on PATH or named by COSIGN and MODEL_SIGNING: cosign 3 (made with
# 3.1.1), and model-signing in Go (made with commit 73a90c8 of 2026-07-20 of its module
# github.com/sigstore/model-signing). What is missing is left as it was made before.
set -euo pipefail
cd "$(dirname "$0")/../.."

made=
golden() { # TOOL FLAG TEST
  local tool
  tool=$(command -v "$1") || { echo "signatures: there is no $1: its goldens stay as they are"; return 0; }
  go test -count=1 -run "$3" ./runtime/source "$2" "$(realpath "$tool")"
  made=yes
}
golden "${COSIGN:-cosign}" -cosign TestWhatCosign
golden "${MODEL_SIGNING:-model-signing}" -model-signing TestWhatModelSigning
[ -n "$made" ] || { echo "signatures: nothing was made: COSIGN=… or MODEL_SIGNING=… names a tool" >&2; exit 1; }
