package pki

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

// Names of the pairs that WriteCluster makes; each is <name>.crt and <name>.key. A node's pairs carry its number.
const (
	CA                = "ca"
	APIServer         = "apiserver"
	KubeletClient     = "apiserver-kubelet-client"
	Admin             = "admin"
	ControllerManager = "controller-manager"
	Scheduler         = "scheduler"
	Proxy             = "proxy"
	Kubelet           = "kubelet"
	KubeletServing    = "kubelet-serving"
	ServiceAccounts   = "service-accounts"
	FrontProxyClient  = "front-proxy-client"
)

// FrontProxyCA is the authority of the one certificate by which the API server proves itself to the servers of aggregated
// APIs. It is apart from CA, whose clients would otherwise be believed to be anybody whom they name in a header.
// There is <name>.crt and no key: nothing more is signed with it.
const FrontProxyCA = "front-proxy-ca"

// FrontProxyUser is the name in that certificate.
const FrontProxyUser = "front-proxy-client"

// WriteCluster makes everything that cluster c needs and writes it into dir, readable by root alone.
func WriteCluster(c layout.Cluster, dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the certificates' folder: %w", err)
	}
	authority, err := NewAuthority(c.CgroupName(), now)
	if err != nil {
		return err
	}
	if err := writePair(dir, CA, authority.Pair()); err != nil {
		return err
	}
	for name, request := range clients(c) {
		pair, err := authority.Client(request)
		if err != nil {
			return err
		}
		if err := writePair(dir, name, pair); err != nil {
			return err
		}
	}
	for name, request := range servers(c) {
		pair, err := authority.Server(request)
		if err != nil {
			return err
		}
		if err := writePair(dir, name, pair); err != nil {
			return err
		}
	}
	if err := writeFrontProxy(c, dir, now); err != nil {
		return err
	}
	private, public, err := SigningKey()
	if err != nil {
		return err
	}
	return writePair(dir, ServiceAccounts, Pair{Cert: public, Key: private})
}

// writeFrontProxy makes what the API server's aggregation layer needs.
func writeFrontProxy(c layout.Cluster, dir string, now time.Time) error {
	authority, err := NewAuthority(c.CgroupName()+"-front-proxy", now)
	if err != nil {
		return err
	}
	if err := write(dir, FrontProxyCA+".crt", authority.Pair().Cert); err != nil {
		return err
	}
	pair, err := authority.Client(Request{CommonName: FrontProxyUser})
	if err != nil {
		return err
	}
	return writePair(dir, FrontProxyClient, pair)
}

// clients lists who talks to the API server (or, as the API server, to a kubelet), with the user and group names that
// Kubernetes' built-in roles are bound to.
func clients(c layout.Cluster) map[string]Request {
	requests := map[string]Request{
		KubeletClient:     {CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}},
		Admin:             {CommonName: "t2cluster-admin", Organizations: []string{"system:masters"}},
		ControllerManager: {CommonName: "system:kube-controller-manager"},
		Scheduler:         {CommonName: "system:kube-scheduler"},
		Proxy:             {CommonName: "system:kube-proxy"},
	}
	for _, n := range c.AllNodes() {
		requests[n.Component(Kubelet)] = Request{CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"}}
	}
	return requests
}

// servers lists who is talked to, and under which names and addresses.
func servers(c layout.Cluster) map[string]Request {
	first := c.Node(1)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	requests := map[string]Request{
		APIServer: {
			CommonName: "kube-apiserver",
			DNSNames: []string{
				"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
				"localhost", first.Name,
			},
			IPs: []netip.Addr{netip.MustParseAddr(layout.APIServiceIP), first.IP, loopback},
		},
	}
	for _, n := range c.AllNodes() {
		requests[n.Component(KubeletServing)] = Request{CommonName: n.Name, DNSNames: []string{n.Name}, IPs: []netip.Addr{n.IP}}
	}
	return requests
}

func writePair(dir, name string, pair Pair) error {
	if err := write(dir, name+".crt", pair.Cert); err != nil {
		return err
	}
	return write(dir, name+".key", pair.Key)
}

func write(dir, file string, content []byte) error {
	if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
		return fmt.Errorf("writing a certificate or key: %w", err)
	}
	return nil
}
