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
	// serverPatience is how long what the API server refuses is taken for its beginning: until
	// it has read its own roles it refuses what it allows a moment later.
	serverPatience = 20 * time.Second
)

// awaitServer waits until the API server says which kinds it has, which is the first that a
// manager asks; what it refuses for longer than patience the manager is to tell. One that begins
// while it is away (an operator that lost its lease ends, and is started again at once) would
// fail, and the kubelet would wait longer each time, up to five minutes, before it starts it
// again: so long would nothing be done after the API server is back. Meanwhile the probes of
// the kubelet are answered: it lives, and is not ready.
func awaitServer(ctx context.Context, config *rest.Config, probeAddress string, patience time.Duration) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	client = &http.Client{Transport: client.Transport, Timeout: serverTimeout}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	address := url.JoinPath("apis").String()
	problem := answers(ctx, client, address)
	if problem == nil || patience == 0 && errors.Is(problem, errRefused) {
		return nil
	}
	stop, err := serveProbes(ctx, probeAddress)
	if err != nil {
		return err
	}
	defer stop()
	var said, refused time.Time
	for problem != nil {
		switch {
		case !errors.Is(problem, errRefused):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) >= patience:
			return nil
		}
		if _, wrong := errors.AsType[*tls.CertificateVerificationError](problem); wrong {
			return fmt.Errorf("asking the API server: %w", problem) // Waiting makes no other of it.
		}
		if time.Since(said) >= serverSilence {
			ctrllog.FromContext(ctx).Info("Waited for the API server", "server", config.Host, "error", problem.Error())
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

// errRefused marks an answer by which a server does not do what it was asked, and is there.
var errRefused = errors.New("it refuses")

// answers asks the API server.
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
	switch {
	case response.StatusCode >= http.StatusInternalServerError:
		return fmt.Errorf("it answers %s", response.Status)
	case response.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("%w: %s", errRefused, response.Status)
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
