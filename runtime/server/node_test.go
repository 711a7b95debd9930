package server_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOpenAIsNodeClient runs test/clients/node against a server.
func TestOpenAIsNodeClient(t *testing.T) {
	dir := os.Getenv("T2_NODE_CLIENT")
	if dir == "" {
		t.Skip("T2_NODE_CLIENT is not set: it names test/clients/node with its packages installed, as make unit does")
	}
	h := open(t, nil)
	node := exec.CommandContext(t.Context(), "node", "--test", filepath.Join(dir, "client.test.mjs"))
	node.Env = append(os.Environ(), "OPENAI_BASE_URL="+h.api.URL+"/v1/")
	out, err := node.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
