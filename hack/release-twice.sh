#!/usr/bin/env bash
# Makes a release twice, the second time from a copy of the tree in another
# folder and with an empty build cache, and fails where bytes differ. It takes as
# long as two builds from nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
export VERSION=${VERSION:-v0.0.0-twice}
git clone --quiet --no-hardlinks . "$work/elsewhere"
DIST=$work/one hack/release.sh
# Helm and kubectl are tools, not parts of the release.
T2_BIN=$PWD/bin GOCACHE=$work/cache DIST=$work/two "$work/elsewhere/hack/release.sh"
diff "$work/one/SHA256SUMS" "$work/two/SHA256SUMS"
diff "$work/one/provenance.intoto.json" "$work/two/provenance.intoto.json"
echo "==> the same bytes twice: $(wc -l <"$work/one/SHA256SUMS") files"
