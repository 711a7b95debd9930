// Package servertest helps tests of a running server.
package servertest

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log keeps what a server logs, as JSON lines. It may be used concurrently.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns everything that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Addresses waits until the server says where it listens, as it must be asked
// when it was told to choose free ports. Choosing them before it starts would
// give them to whoever is quicker.
func (l *Log) Addresses(tb testing.TB) (api, admin string) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for line := range strings.Lines(l.String()) {
			var entry struct {
				Message string `json:"msg"`
				API     string `json:"api"`
				Admin   string `json:"admin"`
			}
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "Started listening" {
				return "http://" + entry.API, "http://" + entry.Admin
			}
		}
	}
	tb.Fatalf("the server does not listen; log:\n%s", l.String())
	return "", ""
}
