package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/transformersquared/operator/runtime/artifact"
)

// maxPEM bounds the files of a certificate and of its key.
const maxPEM = 64 << 10

// secured takes connections by TLS.
func (s *Server) secured(l net.Listener) net.Listener {
	c := &certificate{certFile: s.config.AdminCertFile, keyFile: s.config.AdminKeyFile, log: s.log}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
	})
}

// certificate is one of files that somebody exchanges while they are used, as the kubelet
// does those of a Secret.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu        sync.Mutex
	cert, key []byte // What pair was made of.
	pair      *tls.Certificate
	trouble   string // That was logged last.
}

// get returns the pair that the files have now, or the last one that they had: between the
// reading of the one and of the other they may have been exchanged, and the next handshake
// finds both.
func (c *certificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read()
	if err != nil && c.pair == nil {
		err = c.read()
	}
	if err == nil {
		c.trouble = ""
		return c.pair, nil
	}
	if text := err.Error(); text != c.trouble {
		c.trouble = text
		c.log.Warn("Could not read the certificate of the admin API", "error", err, "lastOne", c.pair != nil)
	}
	if c.pair == nil {
		return nil, err
	}
	return c.pair, nil
}

// read makes the pair of the files, unless it is made of what they have.
func (c *certificate) read() error {
	cert, err := artifact.ReadBounded(c.certFile, maxPEM)
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	key, err := artifact.ReadBounded(c.keyFile, maxPEM)
	if err != nil {
		return fmt.Errorf("reading the certificate's key: %w", err)
	}
	if c.pair != nil && bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("reading the certificate %s and its key %s: %w", c.certFile, c.keyFile, err)
	}
	c.cert, c.key, c.pair = cert, key, &pair
	return nil
}
