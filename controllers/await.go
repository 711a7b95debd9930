package controllers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// serverTimeout bounds one question to the API server, serverPause is the time between
	// two, and serverSilence how often it is said that it does not answer.
	serverTimeout = 5 * time.Second
	serverPause   = time.Second
	serverSilence = time.Minute
)

// awaitServer waits until the API server answers, whatever it says. A manager that begins
// while it is away (an operator that lost its lease ends, and is started again at once) would
// fail, and the kubelet would wait longer each time, up to five minutes, before it starts it
// again: so long would nothing be done after the API server is back. Meanwhile the probes of
// the kubelet are answered: it lives, and is not ready.
func awaitServer(ctx context.Context, config *rest.Config, probeAddress string) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	client = &http.Client{Transport: client.Transport, Timeout: serverTimeout}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	address := url.JoinPath("version").String()
	problem := answers(ctx, client, address)
	if problem == nil {
		return nil
	}
	stop, err := serveProbes(ctx, probeAddress)
	if err != nil {
		return err
	}
	defer stop()
	var said time.Time
	for problem != nil {
		if _, wrong := errors.AsType[*tls.CertificateVerificationError](problem); wrong {
			return fmt.Errorf("asking the API server: %w", problem) // Waiting makes no other of it.
		}
		if time.Since(said) >= serverSilence {
			ctrllog.FromContext(ctx).Info("Waited for the API server, which does not answer", "server", config.Host, "error", problem.Error())
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the API server: %w", ctx.Err())
		case <-time.After(serverPause):
		}
		problem = answers(ctx, client, address)
	}
	return nil
}

// answers asks the API server. What it refuses it has answered.
func answers(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

// serveProbes answers the kubelet until stop is called, which frees the address again.
func serveProbes(ctx context.Context, address string) (stop func(), err error) {
	if address == "" || address == "0" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the API server does not answer", http.StatusServiceUnavailable)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: serverTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // It ends when it is closed.
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}
