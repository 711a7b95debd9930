package jobs

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/artifact"
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
	whole := t.Message
	for keep := len(whole); ; {
		body, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("encoding termination message: %w", err)
		}
		excess := len(body) - contract.MaxTerminationBytes
		if excess <= 0 {
			return body, nil
		}
		if keep == 0 {
			return nil, fmt.Errorf("termination message has %d bytes more than fit, without its text", excess)
		}
		// A byte of the text takes up to six in JSON, so this cuts too little
		// rather than too much, and comes again.
		keep = max(0, keep-max(1, excess/jsonGrowth))
		t.Message = cut(whole, keep)
	}
}

const (
	ellipsis   = "…"
	jsonGrowth = 6
)

// cut returns at most the first n bytes of s, to a rune's boundary, and marks
// that something is missing.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	if n == 0 {
		return ""
	}
	return s[:n] + ellipsis
}

// WriteTermination leaves t where the container's termination message is read
// from: the file that getenv(contract.EnvTerminationLog) names, or the default.
// The container runtime has mounted that file, so it is written in place.
func WriteTermination(t contract.Termination, getenv func(string) string) error {
	body, err := EncodeTermination(t)
	if err != nil {
		return err
	}
	path := getenv(contract.EnvTerminationLog)
	if path == "" {
		path = contract.DefaultTerminationLog
	}
	if err := artifact.WriteFile(path, body); err != nil {
		return fmt.Errorf("leaving the termination message: %w", err)
	}
	return nil
}
