# How a release is signed: hack/release.sh and hack/release-push.sh source it. COSIGN_KEY is the key, a file (its
# password in COSIGN_PASSWORD) or a KMS's URI; COSIGN names cosign, of version 3 or later.
# shellcheck shell=bash

# Neither a transparency log nor the Sigstore project's services have a part in it unless
# they are asked for: COSIGN_FLAGS= leaves it to cosign, which then asks the public ones.
read -ra cosign_flags <<<"${COSIGN_FLAGS---use-signing-config=false --tlog-upload=false}"
cosign=${COSIGN:-cosign}

# Fails where nothing can be signed.
check_cosign() {
  if ! command -v "$cosign" >/dev/null; then
    echo "release: COSIGN_KEY is set and there is no $cosign: install cosign 3, or name it by COSIGN=…" >&2
    return 1
  fi
  if [[ $("$cosign" sign-blob --help 2>&1) != *--use-signing-config* ]]; then
    echo "release: $cosign is older than version 3, and signs otherwise: install cosign 3, or name it by COSIGN=…" >&2
    return 1
  fi
  if [[ $COSIGN_KEY != *://* ]] && ! [ -f "$COSIGN_KEY" ]; then
    echo "release: COSIGN_KEY=$COSIGN_KEY is no file: cosign generate-key-pair makes one" >&2
    return 1
  fi
}

sign_release() { # FOLDER
  local file
  for file in "$1"/SHA256SUMS "$1"/transformersquared-*.tgz; do
    "$cosign" sign-blob --yes --key "$COSIGN_KEY" "${cosign_flags[@]}" --bundle "$file.sigstore.json" "$file"
  done
  # Of each file and image that it names, so that one of them is checked by itself.
  file=$1/provenance.intoto.json
  "$cosign" attest-blob --yes --key "$COSIGN_KEY" "${cosign_flags[@]}" --statement "$file" --bundle "$file.sigstore.json"
}

sign_image() { # REFERENCE@DIGEST [FLAG...]
  "$cosign" sign --yes --key "$COSIGN_KEY" "${cosign_flags[@]}" "${@:2}" "$1"
}

attest_image() { # REFERENCE@DIGEST TYPE PREDICATE [FLAG...]
  "$cosign" attest --yes --key "$COSIGN_KEY" "${cosign_flags[@]}" --type "$2" --predicate "$3" "${@:4}" "$1"
}
