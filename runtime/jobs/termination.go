package jobs

import (
	"encoding/json"
	"fmt"
	"os"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/contract"
)

// EncodeTermination returns t as JSON of at most contract.MaxTerminationBytes:
// the kubelet would cut a longer one and make it unreadable. File lists are
// left out, then the message is shortened.
func EncodeTermination(t contract.Termination) ([]byte, error) {
	if t.Decomposition != nil {
		d := *t.Decomposition
		d.Files = nil
		t.Decomposition = &d
	}
	for {
		body, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("encoding termination message: %w", err)
		}
		if len(body) <= contract.MaxTerminationBytes {
			return body, nil
		}
		if t.Message == "" {
			return nil, fmt.Errorf("termination message has %d bytes, %d more than fit",
				len(body), len(body)-contract.MaxTerminationBytes)
		}
		t.Message = shorten(t.Message, len(body)-contract.MaxTerminationBytes)
	}
}

const ellipsis = "…"

// shorten cuts at least excess bytes off the end of s, at a rune boundary, and
// marks the cut; it always returns something shorter.
func shorten(s string, excess int) string {
	keep := len(s) - excess - len(ellipsis)
	if keep <= 0 {
		return ""
	}
	for keep > 0 && !utf8.RuneStart(s[keep]) {
		keep--
	}
	if keep == 0 {
		return ""
	}
	return s[:keep] + ellipsis
}

func writeTermination(t contract.Termination, getenv func(string) string) error {
	body, err := EncodeTermination(t)
	if err != nil {
		return err
	}
	path := getenv(contract.EnvTerminationLog)
	if path == "" {
		path = contract.DefaultTerminationLog
	}
	if err := os.WriteFile(path, body, 0o644); err != nil { //nolint:gosec // The kubelet reads it.
		return fmt.Errorf("writing termination message: %w", err)
	}
	return nil
}
