package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// EndAll kills every process that pick picks of all, and returns how many it found, once none is left. It kills without
// warning: nothing of a cluster that goes away is worth saving, and a program that is asked first may start others meanwhile.
func EndAll(ctx context.Context, pick func(all []Info) []Info, bound time.Duration) (int, error) {
	seen := map[int]bool{}
	deadline := time.Now().Add(bound)
	for {
		all, err := Snapshot()
		if err != nil {
			return len(seen), err
		}
		members := pick(all)
		if len(members) == 0 {
			return len(seen), nil
		}
		if time.Now().After(deadline) {
			return len(seen), fmt.Errorf("still running %s after they were killed: %s", bound, describe(members))
		}
		for _, p := range members {
			seen[p.PID] = true
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return len(seen), fmt.Errorf("killing %s: %w", describe([]Info{p}), err)
			}
		}
		select {
		case <-ctx.Done():
			return len(seen), ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func describe(processes []Info) string {
	words := make([]string, len(processes))
	for i, p := range processes {
		words[i] = fmt.Sprintf("%d (%s)", p.PID, p.Executable())
	}
	return strings.Join(words, ", ")
}
