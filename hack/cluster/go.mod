// The tool that brings the local cluster up and down, and builds images without Docker. It stays small on purpose: what
// it starts is built from the modules in kube/ and containerd/, so changing the tool never recompiles Kubernetes.
module github.com/transformersquared/operator/hack/cluster

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/google/go-containerregistry v0.22.1
	github.com/transformersquared/operator v0.0.0
)

require (
	github.com/klauspost/compress v1.20.4 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
)

// Of the project itself it takes the way to write a file, which imports nothing but the standard library.
replace github.com/transformersquared/operator => ../..
