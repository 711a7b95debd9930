package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/transformersquared/operator/runtime/contract"
)

// Handler serves what contract says a Job serves on PortAdmin: health,
// readiness, metrics, progress and the
// learning curve of a training. It changes nothing and tells no secret, so
// it asks for no credentials.
func Handler(p *Progress) http.Handler {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET "+contract.PathHealth, ok)
	mux.HandleFunc("GET "+contract.PathReady, ok)
	process := prometheus.NewRegistry()
	process.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET "+contract.PathMetrics, promhttp.HandlerFor(
		prometheus.Gatherers{p.Registry(), process}, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+contract.PathProgress, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, p.Snapshot())
	})
	mux.HandleFunc("GET "+contract.PathCurve, func(w http.ResponseWriter, _ *http.Request) {
		curve, ok := p.learned()
		if !ok {
			http.Error(w, "nothing is trained here yet", http.StatusNotFound)
			return
		}
		answer(w, curve.Thin(contract.MaxCurvePoints))
	})
	return mux
}

func answer(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// serveAdmin answers on address until stop is called. A job never fails for
// want of its admin listener: the address may be taken on a desk, and the
// operator can do without.
func serveAdmin(ctx context.Context, address string, p *Progress, log *slog.Logger) (stop func()) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		log.Warn("Admin listener could not start", "address", address, "error", err)
		return func() {}
	}
	server := &http.Server{
		Handler: Handler(p), ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("Admin listener ended", "error", err)
		}
	}()
	return func() {
		_ = server.Close()
		<-done
	}
}
