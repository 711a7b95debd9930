// Package certs makes the certificates that serving pods show the operator, and says when
// another one is due.
//
// Each policy has one of its own, signed by itself: who asks its pods trusts that one, and
// those before it which are still valid, and no authority whose key could be lost. The
// certificate, its key and what is to be trusted are in one Secret, which the pods mount:
// kubelets bring it to them after a renewal, at their leisure, and until then they show the
// one before.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

const (
	// Lifetime of a certificate.
	Lifetime = 90 * 24 * time.Hour
	// RenewBefore its end another one is made: pods that still have it by then have had so
	// long to take the new one.
	RenewBefore = 30 * 24 * time.Hour
	// early is how far clocks of nodes may be behind.
	early = time.Hour
	// maxTrusted bounds how many certificates are trusted: the newest.
	maxTrusted = 4

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// Renew returns what the Secret of a policy of this name should have under the contract's
// keys AdminCertKey, AdminPrivateKey and AdminTrustKey, given what it has, and whether that
// is something else. A certificate that is missing, broken, of another name or about to end
// is replaced; the one before stays trusted until its end.
func Renew(now time.Time, name string, have map[string][]byte) (map[string][]byte, bool, error) {
	current, err := inUse(have)
	fresh := err == nil && current.VerifyHostname(name) == nil && !now.Before(current.NotBefore) && now.Before(current.NotAfter.Add(-RenewBefore))
	trusted := Parse(have[contract.AdminTrustKey])
	if current != nil {
		trusted = append([]*x509.Certificate{current}, trusted...)
	}
	want := map[string][]byte{
		contract.AdminCertKey: have[contract.AdminCertKey], contract.AdminPrivateKey: have[contract.AdminPrivateKey],
	}
	if !fresh {
		made, key, err := create(now, name)
		if err != nil {
			return nil, false, err
		}
		trusted = append([]*x509.Certificate{made}, trusted...)
		want[contract.AdminCertKey], want[contract.AdminPrivateKey] = encode(made), key
	}
	want[contract.AdminTrustKey] = bundle(now, trusted)
	for key, value := range want {
		if !bytes.Equal(value, have[key]) {
			return want, true, nil
		}
	}
	return want, false, nil
}

// inUse reads the certificate that pods have, and checks that the key is its own.
func inUse(have map[string][]byte) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(have[contract.AdminCertKey], have[contract.AdminPrivateKey])
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	if pair.Leaf == nil {
		return nil, errors.New("reading a certificate: there is none")
	}
	return pair.Leaf, nil
}

// create makes a certificate, and its key as PEM.
func create(now time.Time, name string) (*x509.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{name},
		NotBefore: now.Add(-early), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate: %w", err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a certificate that was made: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	return made, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: private}), nil
}

// bundle encodes those that are valid, the newest first, each once.
func bundle(now time.Time, all []*x509.Certificate) []byte {
	var valid []*x509.Certificate
	for _, c := range all {
		if now.Before(c.NotAfter) && !slices.ContainsFunc(valid, c.Equal) {
			valid = append(valid, c)
		}
	}
	slices.SortStableFunc(valid, func(a, b *x509.Certificate) int { return b.NotAfter.Compare(a.NotAfter) })
	var text []byte
	for _, c := range valid[:min(len(valid), maxTrusted)] {
		text = append(text, encode(c)...)
	}
	return text
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})
}

// Parse reads the certificates of a bundle, without what is none.
func Parse(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == pemCertificate {
			all = append(all, c)
		}
	}
}
