#!/usr/bin/env bash
# A kustomization may say in which order its objects come (sortOptions). Run as a
# library with its default options, kustomize then warns that the order "is set
# both in 'kustomization.yaml' and in a CLI flag ('--reorder')", though there is
# no command line: the default options say "none" rather than nothing. With
# ReorderOptionUnspecified it is silent. So a program that embeds kustomize makes
# its users look for a flag that they never gave.
set -euo pipefail

dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
mkdir base
cat >base/kustomization.yaml <<'YAML'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
sortOptions: {order: fifo}
resources: [object.yaml]
YAML
cat >base/object.yaml <<'YAML'
apiVersion: v1
kind: ConfigMap
metadata: {name: one}
YAML
cat >main.go <<'GO'
package main

import (
	"fmt"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	for _, silent := range []bool{false, true} {
		options := krusty.MakeDefaultOptions()
		if silent {
			options.Reorder = krusty.ReorderOptionUnspecified
		}
		fmt.Printf("Reorder %q\n", options.Reorder)
		if _, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), "base"); err != nil {
			panic(err)
		}
	}
}
GO
export GOFLAGS=-mod=mod
go mod init example.com/finding >/dev/null 2>&1
go get sigs.k8s.io/kustomize/api@v0.21.1 >/dev/null 2>&1
go list -m sigs.k8s.io/kustomize/api
go run . 2>warnings
cat warnings
[ "$(wc -l <warnings)" -eq 1 ]
grep -q "both in 'kustomization.yaml' ('sortOptions') and in a CLI flag ('--reorder')" warnings
