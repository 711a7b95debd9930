package server_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runNode runs a file of test/clients/node against a server.
func runNode(t *testing.T, h *house, file string) {
	t.Helper()
	dir := os.Getenv("T2_NODE_CLIENT")
	if dir == "" {
		t.Skip("T2_NODE_CLIENT is not set: it names test/clients/node with its packages installed, as make unit does")
	}
	node := exec.CommandContext(t.Context(), "node", "--test", filepath.Join(dir, file))
	node.Env = append(os.Environ(), "OPENAI_BASE_URL="+h.api.URL+"/v1/")
	out, err := node.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "# fail 0") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestOpenAIsNodeClient(t *testing.T) { runNode(t, open(t, nil), "client.test.mjs") }
