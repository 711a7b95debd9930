package main

import (
	"bytes"
	stdcontext "context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

const (
	// startPatience is how long a server may take until it is ready: it composes experts.
	startPatience = 10 * time.Minute
	endPatience   = 10 * time.Second
)

// measure starts the server, asks it everything and ends it.
func (c contender) measure(ctx stdcontext.Context, o options, list []request) (_ *tally, err error) {
	api, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, c.program, c.arguments(api, admin)...)
	if err != nil {
		return nil, err
	}
	defer func() {
		s.stop()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, tail(s.log.Bytes()))
		}
	}()
	if err := s.awaitReady(ctx, c.ready(api, admin)); err != nil {
		return nil, err
	}
	l := traffic{url: "http://" + api + contract.PathCompletions, clients: o.clients, limit: o.limit, model: c.model}
	return l.run(ctx, list), ctx.Err()
}

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	log   bytes.Buffer
	ended chan struct{} // Closed once it has; how is err's to say.
	err   error
}

func start(ctx stdcontext.Context, program string, arguments ...string) (*process, error) {
	s := &process{cmd: exec.CommandContext(ctx, program, arguments...), ended: make(chan struct{})} //nolint:gosec // The caller says which.
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(os.Interrupt) }
	s.cmd.WaitDelay = endPatience
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

// stop ends it, if it has not ended.
func (s *process) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt) // It may have.
	select {
	case <-s.ended:
	case <-time.After(endPatience):
		_ = s.cmd.Process.Kill() // Likewise.
		<-s.ended
	}
}

// awaitReady returns once a URL answers with status 200.
func (s *process) awaitReady(ctx stdcontext.Context, url string) error {
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); {
		if ready, err := answers(ctx, url); ready || err != nil {
			return err
		}
		select {
		case <-s.ended:
			return fmt.Errorf("it ended before it was ready: %w", errors.Join(s.err, ctx.Err()))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not say within %v that it is ready", url, startPatience)
}

// answers reports whether a URL does with status 200. That nobody listens yet is no error.
func answers(ctx stdcontext.Context, url string) (bool, error) {
	asking, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(asking)
	if err != nil {
		return false, nil //nolint:nilerr // See above.
	}
	return response.StatusCode == http.StatusOK, response.Body.Close()
}

// freeAddress is one of the loopback interface that nobody listens on.
func freeAddress(ctx stdcontext.Context) (string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
