package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine/enginetest"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/server/servertest"
)

// mounted is a folder of files that are exchanged together, as the kubelet does with those
// of a Secret: through a link to the folder that has them now.
type mounted struct {
	dir string
	n   int
}

func (m *mounted) path(key string) string { return filepath.Join(m.dir, "..data", key) }

func (m *mounted) put(t *testing.T, files map[string][]byte) {
	t.Helper()
	m.n++
	version := fmt.Sprintf("..%d", m.n)
	if err := os.Mkdir(filepath.Join(m.dir, version), 0o700); err != nil {
		t.Fatal(err)
	}
	for key, content := range files {
		if err := os.WriteFile(filepath.Join(m.dir, version, key), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := filepath.Join(m.dir, "..next")
	if err := os.Symlink(version, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(m.dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

// certify makes a certificate with its key, as files.
func certify(t *testing.T, serial int64) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"demo"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		contract.AdminCertKey:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		contract.AdminPrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

// asking makes calls that trust these certificates, a connection each, and reports the
// serial number that the server showed.
func asking(trusted ...map[string][]byte) func(ctx context.Context, url string) (serial int64, code int, err error) {
	roots := x509.NewCertPool()
	for _, t := range trusted {
		roots.AppendCertsFromPEM(t[contract.AdminCertKey])
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "demo"},
	}}
	return func(ctx context.Context, url string) (int64, int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, 0, err
		}
		resp, err := client.Do(r)
		if err != nil {
			return 0, 0, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.StatusCode, err
	}
}

// TestTheAdminPortByHTTPS exchanges a pod's certificate again and again while it is asked:
// no call fails, the newest is shown, and what is broken leaves the one before.
func TestTheAdminPortByHTTPS(t *testing.T) {
	v := enginetest.New(t)
	log := &servertest.Log{}
	c := config(t, v, log)
	c.SetFile, c.Set = "", &contract.ExpertSet{Strategy: contract.StrategyPrompt}
	m := &mounted{dir: t.TempDir()}
	c.AdminCertFile, c.AdminKeyFile = m.path(contract.AdminCertKey), m.path(contract.AdminPrivateKey)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.New(c).Run(ctx) }()
	api, plain := log.Addresses(t)
	admin := strings.Replace(plain, "http://", "https://", 1)

	const last = 20
	var all []map[string][]byte
	for serial := range int64(last + 1) {
		all = append(all, certify(t, serial+1))
	}
	ask := asking(all...)
	if _, _, err := ask(ctx, admin+contract.PathHealth); err == nil {
		t.Error("it answers without a certificate")
	}
	m.put(t, all[0]) // The kubelet may be late.
	waitFor(t, "readiness", func() bool {
		_, code, err := ask(ctx, admin+contract.PathReady)
		return err == nil && code == http.StatusOK
	})
	if _, code := reachable(t, api+contract.PathModels); code != http.StatusOK {
		t.Errorf("the API by HTTP: %d", code)
	}
	if _, code := reachable(t, plain+contract.PathExpertSet); code == http.StatusOK {
		t.Error("the admin port answers by HTTP too")
	}
	if _, _, err := asking(certify(t, 1))(ctx, admin+contract.PathHealth); err == nil {
		t.Error("a certificate of nobody's is taken")
	}

	var asked sync.WaitGroup
	var answered atomic.Int64
	over := make(chan struct{})
	for range 4 {
		asked.Go(func() {
			newest := int64(0)
			for {
				serial, code, err := ask(ctx, admin+contract.PathExpertSet)
				if err != nil || code != http.StatusOK || serial < newest {
					t.Errorf("certificate %d after %d, status %d: %v", serial, newest, code, err)
					return
				}
				newest = serial
				answered.Add(1)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	for _, files := range all[1:last] {
		m.put(t, files)
		enough := answered.Load() + 4
		waitFor(t, "calls between two certificates", func() bool { return answered.Load() >= enough || t.Failed() })
	}
	// A certificate is read as a connection is made: one that nobody asked for before the next
	// came was never there, and what is broken would leave the one before it.
	if serial, _, err := ask(ctx, admin+contract.PathHealth); err != nil || serial != last {
		t.Errorf("after %d certificates it shows %d, %v", last, serial, err)
	}
	m.put(t, map[string][]byte{contract.AdminCertKey: all[last][contract.AdminCertKey], contract.AdminPrivateKey: all[0][contract.AdminPrivateKey]})
	if serial, _, err := ask(ctx, admin+contract.PathHealth); err != nil || serial != last {
		t.Errorf("with a key of another it shows %d, %v", serial, err)
	}
	m.put(t, all[last])
	if serial, _, err := ask(ctx, admin+contract.PathHealth); err != nil || serial != last+1 {
		t.Errorf("it shows %d, %v", serial, err)
	}
	close(over)
	asked.Wait()
	if !strings.Contains(log.String(), "Could not read the certificate") {
		t.Error("what was broken is not told")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
