package render

import (
	"encoding/json"
	"fmt"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

// Kubeconfig returns a kubeconfig that holds its keys itself, so that it works wherever it is copied. JSON is YAML.
func Kubeconfig(name, user, server string, ca []byte, client pki.Pair) ([]byte, error) {
	config := map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []any{map[string]any{
			"name":    name,
			"cluster": map[string]any{"server": server, "certificate-authority-data": ca},
		}},
		"users": []any{map[string]any{
			"name": user,
			"user": map[string]any{"client-certificate-data": client.Cert, "client-key-data": client.Key},
		}},
		"contexts": []any{map[string]any{
			"name":    name,
			"context": map[string]any{"cluster": name, "user": user},
		}},
		"current-context": name,
	}
	return document(config)
}

// document renders a configuration file. JSON rather than YAML: every reader of YAML takes it, and it needs no library.
func document(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering a configuration file: %w", err)
	}
	return append(text, '\n'), nil
}
