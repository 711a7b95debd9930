// Package gitops pins Helm, and tests what tools that roll out from Git make of
// our objects: Argo CD by its health check in config/argocd, Flux and Helm by
// kstatus, and whether Flux knows each field of config/flux. The objects are those
// that the operator made against a real API server (test/envtest).
package gitops
