package bringup

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/kubeapi"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/render"
)

// object is one to create, and where.
type object struct {
	path string
	body any
}

// defaultObjects are what every cluster starts with.
func defaultObjects() []object {
	return []object{
		{path: "/apis/storage.k8s.io/v1/storageclasses", body: map[string]any{
			"apiVersion": "storage.k8s.io/v1",
			"kind":       "StorageClass",
			"metadata": map[string]any{
				"name":        "standard",
				"annotations": map[string]any{"storageclass.kubernetes.io/is-default-class": "true"},
			},
			"provisioner":       "kubernetes.io/host-path",
			"reclaimPolicy":     "Delete",
			"volumeBindingMode": "Immediate",
		}},
		// A service without endpoints, at the address that pods have as their name server: it makes kube-proxy refuse
		// queries at once, where without it each would run into a timeout of many seconds.
		{path: "/api/v1/namespaces/kube-system/services", body: map[string]any{
			"apiVersion": "v1",
			"kind":       "Service",
			"metadata":   map[string]any{"name": "kube-dns", "namespace": "kube-system"},
			"spec": map[string]any{
				"clusterIP": layout.DNSServiceIP,
				"ports": []any{
					map[string]any{"name": "dns", "port": 53, "protocol": "UDP"},
					map[string]any{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
				},
			},
		}},
	}
}

// writeKubeconfigs writes one for each component that talks to the API server, and the administrator's.
func writeKubeconfigs(c layout.Cluster) error {
	files := map[string]string{
		pki.ControllerManager: render.KubeconfigFile(c, pki.ControllerManager),
		pki.Scheduler:         render.KubeconfigFile(c, pki.Scheduler),
		pki.Proxy:             render.KubeconfigFile(c, pki.Proxy),
		pki.Admin:             c.Kubeconfig(),
	}
	for _, n := range c.AllNodes() {
		name := n.Component(pki.Kubelet)
		files[name] = render.KubeconfigFile(c, name)
	}
	ca, err := readPair(c, pki.CA)
	if err != nil {
		return err
	}
	for client, path := range files {
		pair, err := readPair(c, client)
		if err != nil {
			return err
		}
		text, err := render.Kubeconfig(c.Name, client, c.APIServer(), ca.Cert, pair)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("writing a kubeconfig: %w", err)
		}
	}
	return nil
}

func readPair(c layout.Cluster, name string) (pki.Pair, error) {
	cert, err := os.ReadFile(filepath.Join(render.PKIDir(c), name+".crt"))
	if err != nil {
		return pki.Pair{}, fmt.Errorf("reading a certificate: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(render.PKIDir(c), name+".key"))
	if err != nil {
		return pki.Pair{}, fmt.Errorf("reading a key: %w", err)
	}
	return pki.Pair{Cert: cert, Key: key}, nil
}

// Client returns a client of c's API server with the administrator's rights.
func Client(c layout.Cluster) (*kubeapi.Client, error) {
	ca, err := readPair(c, pki.CA)
	if err != nil {
		return nil, err
	}
	admin, err := readPair(c, pki.Admin)
	if err != nil {
		return nil, err
	}
	return kubeapi.New(c.APIServer(), ca.Cert, admin)
}
