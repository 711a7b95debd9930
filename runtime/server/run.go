package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits on connections.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// tellTime is how long clients may take to read that their requests have failed;
	// behind the grace period less, since a pod is soon killed then.
	tellTime       = 5 * time.Second
	tellAfterGrace = 2 * time.Second
)

// Run serves until ctx is done, then drains: readiness fails, requests in
// flight finish within the grace period, and Run returns nil. Health and
// readiness are answered from the start, while the model is still loading.
func (s *Server) Run(ctx context.Context) (err error) {
	var lc net.ListenConfig
	admin, err := lc.Listen(ctx, "tcp", s.config.AdminAddress)
	if err != nil {
		return fmt.Errorf("listening for the admin API: %w", err)
	}
	api, err := lc.Listen(ctx, "tcp", s.config.APIAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("listening for the API: %w", err), admin.Close())
	}
	s.log.Info("Started listening", "api", api.Addr().String(), "admin", admin.Addr().String())

	failed := make(chan error, 2)
	var serving sync.WaitGroup
	servers := map[string]*http.Server{"API": s.httpServer(s.givingUp(s.API())), "admin API": s.httpServer(s.Admin())}
	if s.config.AdminCertFile != "" {
		admin = s.secured(admin)
	}
	for name, l := range map[string]net.Listener{"API": api, "admin API": admin} {
		serving.Go(func() {
			if err := servers[name].Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving the %s: %w", name, err)
			}
		})
	}
	defer func() {
		err = errors.Join(err, servers["API"].Close(), servers["admin API"].Close())
		serving.Wait()
		err = errors.Join(err, s.Close())
	}()

	starting, stopStarting := context.WithCancel(ctx)
	defer stopStarting()
	started := make(chan error, 1)
	serving.Go(func() {
		err := s.Load(starting)
		if err == nil {
			err = s.firstSet(starting)
		}
		started <- err
	})
	var lost <-chan error
	for {
		select {
		case err := <-started:
			if err != nil && ctx.Err() == nil {
				return err
			}
			started = nil // Never again.
			if c := s.core.Load(); c != nil {
				lost = c.engine.Lost()
			}
		case err := <-lost:
			// Whoever started this process starts another, and readiness fails until then.
			// Requests have failed; their clients are to be told.
			return errors.Join(fmt.Errorf("serving: %w", err), shutWithin(servers["API"], tellTime))
		case err := <-failed:
			return err
		case <-ctx.Done():
			s.drain(servers["API"])
			return nil
		}
	}
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// drain lets requests in flight finish. First the pod becomes unready, and
// goes on accepting requests for as long as the cluster takes to notice.
func (s *Server) drain(api *http.Server) {
	begun := time.Now()
	s.draining.Store(true)
	s.log.Info("Draining", "grace", s.config.Grace.String())
	if s.config.DrainDelay > 0 {
		delay := time.NewTimer(min(s.config.DrainDelay, s.config.Grace))
		defer delay.Stop()
		<-delay.C
	}
	if err := shutWithin(api, s.config.Grace-time.Since(begun)); err != nil {
		s.log.Warn("Ended requests that took longer than the grace period", "error", err)
		// Their clients are to be told: a stream that merely breaks off looks like a fault of
		// the network, and a request that still waits may go to another server.
		if c := s.core.Load(); c != nil {
			c.engine.Close()
		}
		if err := shutWithin(api, tellAfterGrace); err != nil {
			s.log.Warn("Closed connections of clients that did not read the end", "error", err)
		}
	}
	s.log.Info("Drained", "seconds", time.Since(begun).Seconds())
}

// givingUp ends a client's connection with each answer while the server drains. The next
// request goes by another connection, to a pod that stays; on this one it could be on its
// way when the server closes it, and then nobody knows whether it was read.
func (s *Server) givingUp(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// shutWithin takes no more connections, and waits so long for those that have requests.
func shutWithin(api *http.Server, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return api.Shutdown(ctx)
}
