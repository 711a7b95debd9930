package main

import (
	"bytes"
	stdcontext "context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// llama is llama-bench of llama.cpp or of one that came of it, and llama-batched-bench if
// it lies beside it, on the same model.
type llama struct {
	*peer
	model   string
	threads int
}

// measure adds one figure to each row.
func (l *llama) measure(ctx stdcontext.Context, prefill, decode, batched *row) error {
	var results []struct {
		Prompt int     `json:"n_prompt"`
		Gen    int     `json:"n_gen"`
		Speed  float64 `json:"avg_ts"`
		Commit string  `json:"build_commit"`
	}
	out, err := l.run(ctx, l.program, "-m", l.model, "-p", strconv.Itoa(promptTokens), "-n", strconv.Itoa(decodeTokens),
		"-t", strconv.Itoa(l.threads), "-r", "1", "-o", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, &results); err != nil {
		return fmt.Errorf("what %s prints: %w", l.program, err)
	}
	for _, r := range results {
		into := prefill
		if r.Gen > 0 {
			into = decode
		}
		into.beside(l.Name, r.Speed)
		l.built(ctx, r.Commit)
	}
	return l.batched(ctx, batched)
}

func (l *llama) batched(ctx stdcontext.Context, into *row) error {
	program := filepath.Join(filepath.Dir(l.program), "llama-batched-bench")
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	threads := strconv.Itoa(l.threads)
	out, err := l.run(ctx, program, "-m", l.model, "-c", strconv.Itoa(batch*(batchedTokens+2)), "-npp", "1", "-ntg", strconv.Itoa(batchedTokens),
		"-npl", strconv.Itoa(batch), "-t", threads, "-tb", threads, "--output-format", "jsonl")
	if err != nil {
		return err
	}
	var result struct {
		Speed float64 `json:"speed_tg"`
	}
	i := bytes.IndexByte(out, '{')
	if i < 0 {
		return fmt.Errorf("%s printed no result: %s", program, out)
	}
	if err := json.NewDecoder(bytes.NewReader(out[i:])).Decode(&result); err != nil {
		return fmt.Errorf("what %s prints: %w", program, err)
	}
	into.beside(l.Name, result.Speed)
	return nil
}

// run returns what a program prints on standard output.
func (l *llama) run(ctx stdcontext.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // The caller says which llama.cpp.
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, tail(stderr.Bytes()))
	}
	return out, nil
}

// tail is the end of a log, where the reason is.
func tail(b []byte) []byte {
	const most = 600
	return b[max(0, len(b)-most):]
}
