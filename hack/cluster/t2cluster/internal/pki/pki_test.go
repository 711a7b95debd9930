package pki

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || len(rest) != 0 {
		t.Fatalf("want one PEM block, got %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestEveryCertificateOfAClusterVerifies(t *testing.T) {
	c, err := layout.New("t2", "/s", "", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	now := time.Now()
	if err := WriteCluster(c, dir, now); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(CA + ".crt")) {
		t.Fatal("the authority is no certificate")
	}
	tests := []struct {
		name  string
		user  string
		group string
		hosts []string
	}{
		{name: "admin", user: "t2cluster-admin", group: "system:masters"},
		{name: "controller-manager", user: "system:kube-controller-manager"},
		{name: "scheduler", user: "system:kube-scheduler"},
		{name: "proxy", user: "system:kube-proxy"},
		{name: "kubelet-2", user: "system:node:t2-node-2", group: "system:nodes"},
		{name: "apiserver-kubelet-client", user: "kube-apiserver-kubelet-client", group: "system:masters"},
		{
			name: "apiserver", user: "kube-apiserver",
			hosts: []string{"10.99.0.2", "10.96.0.1", "127.0.0.1", "kubernetes.default.svc", "localhost"},
		},
		{name: "kubelet-serving-1", user: "t2-node-1", hosts: []string{"10.99.0.2", "t2-node-1"}},
		{name: "kubelet-serving-2", user: "t2-node-2", hosts: []string{"10.99.0.3", "t2-node-2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := parse(t, read(tt.name+".crt"))
			if _, err := tls.X509KeyPair(read(tt.name+".crt"), read(tt.name+".key")); err != nil {
				t.Errorf("key and certificate do not fit: %v", err)
			}
			right, wrong := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
			if tt.hosts != nil {
				right, wrong = wrong, right
			}
			options := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{right}}
			if _, err := cert.Verify(options); err != nil {
				t.Errorf("it does not verify for its use: %v", err)
			}
			options.KeyUsages = []x509.ExtKeyUsage{wrong}
			if _, err := cert.Verify(options); err == nil {
				t.Error("it verifies for a use that is not its own")
			}
			if cert.Subject.CommonName != tt.user {
				t.Errorf("user: got %q, want %q", cert.Subject.CommonName, tt.user)
			}
			if groups := cert.Subject.Organization; tt.group == "" && len(groups) > 0 || tt.group != "" && (len(groups) != 1 || groups[0] != tt.group) {
				t.Errorf("groups: got %q, want %q", groups, tt.group)
			}
			for _, host := range tt.hosts {
				if err := cert.VerifyHostname(host); err != nil {
					t.Errorf("it is not valid for %s: %v", host, err)
				}
			}
			info, err := os.Stat(filepath.Join(dir, tt.name+".key"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("key file: mode %v, %v, want 0600", info.Mode(), err)
			}
		})
	}
}

// Whoever has a certificate of the front proxy's authority may say in a header who it is: the API server alone, and no
// client of the cluster's own authority.
func TestTheFrontProxyHasAnAuthorityOfItsOwn(t *testing.T) {
	c, err := layout.New("t2", "/s", "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteCluster(c, dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	pool := func(name string) *x509.CertPool {
		t.Helper()
		roots := x509.NewCertPool()
		roots.AddCert(parse(t, read(name)))
		return roots
	}
	own, front := pool(CA+".crt"), pool(FrontProxyCA+".crt")
	if _, err := tls.X509KeyPair(read(FrontProxyClient+".crt"), read(FrontProxyClient+".key")); err != nil {
		t.Errorf("key and certificate do not fit: %v", err)
	}
	proxy := parse(t, read(FrontProxyClient+".crt"))
	if proxy.Subject.CommonName != FrontProxyUser {
		t.Errorf("user: got %q, want %q", proxy.Subject.CommonName, FrontProxyUser)
	}
	for _, tt := range []struct {
		name     string
		cert     *x509.Certificate
		roots    *x509.CertPool
		verifies bool
	}{
		{"the front proxy, by its authority", proxy, front, true},
		{"the front proxy, by the cluster's authority", proxy, own, false},
		{"the administrator, by the front proxy's authority", parse(t, read(Admin+".crt")), front, false},
	} {
		_, err := tt.cert.Verify(x509.VerifyOptions{Roots: tt.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if verifies := err == nil; verifies != tt.verifies {
			t.Errorf("%s: verifies %v, want %v: %v", tt.name, verifies, tt.verifies, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, FrontProxyCA+".key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the authority's key lies there: %v", err)
	}
}

func TestCertificatesOfAnotherAuthorityDoNotVerify(t *testing.T) {
	one, err := NewAuthority("one", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewAuthority("one", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := one.Client(Request{CommonName: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, two.Pair().Cert))
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := parse(t, pair.Cert).Verify(options); err == nil {
		t.Error("a certificate verifies against an authority that did not sign it")
	}
}

func TestSigningKeysFit(t *testing.T) {
	private, public, err := SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(private)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, isRSA := parsed.(*rsa.PrivateKey)
	if !isRSA {
		t.Fatalf("the private key is a %T, want RSA", parsed)
	}
	block, _ = pem.Decode(public)
	got, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(got) {
		t.Error("the public key is not that of the private key")
	}
}
