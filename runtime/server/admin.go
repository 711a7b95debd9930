package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Admin is the handler of contract.PortAdmin.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathHealth, func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET "+contract.PathReady, func(w http.ResponseWriter, _ *http.Request) {
		if err := s.unready(); err != nil {
			plain(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		plain(w, http.StatusOK, "ok")
	})
	mux.Handle("GET "+contract.PathMetrics, promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+contract.PathExpertSet, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.Status())
	})
	mux.HandleFunc("PUT "+contract.PathExpertSet, s.putExpertSet)
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text)
}

// unready says why the server should not receive requests, nil if it should.
func (s *Server) unready() error {
	switch {
	case s.draining.Load():
		return errors.New("shutting down")
	case s.core.Load() == nil:
		return errNotLoaded
	case s.set.Load() == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refused != "" {
			return fmt.Errorf("no expert set is in use; the last was refused: %s", s.refused)
		}
		return errors.New("no expert set is in use yet")
	}
	return nil
}

// putExpertSet answers with the status after the change. A set that cannot be
// used is 409 where it contradicts what is here (digests, decomposition) and
// 422 otherwise; the set in use stays in use.
func (s *Server) putExpertSet(w http.ResponseWriter, r *http.Request) {
	if e := s.authorise(r); e != nil {
		writeError(w, e)
		return
	}
	body, err := readAll(w, r, maxSetBytes)
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	set, err := parseSet(body)
	if err != nil {
		writeError(w, invalid("", "invalid_json", "%s", err.Error()))
		return
	}
	status := http.StatusOK
	// What has been loaded stays useful when this caller's patience ends.
	if err := s.Swap(s.life, set); err != nil {
		status = swapStatus(err)
	}
	writeJSON(w, status, s.Status())
}

func swapStatus(err error) int {
	if errors.Is(err, errNotLoaded) {
		return http.StatusServiceUnavailable
	}
	switch reason, permanent := failure.Of(err); {
	case reason == contract.ReasonDigestMismatch || reason == contract.ReasonDecompositionMismatch:
		return http.StatusConflict
	case permanent || failure.System(err):
		return http.StatusUnprocessableEntity
	default:
		return http.StatusInternalServerError
	}
}

// authorise checks the bearer token. Digests are compared, so that the time
// taken tells nothing about the token, not even its length.
func (s *Server) authorise(r *http.Request) *apiError {
	if s.config.AdminToken == "" {
		return newError(http.StatusForbidden, typeInvalid, "forbidden", "",
			"this server was started without %s: its experts cannot be changed over HTTP", contract.EnvAdminToken)
	}
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want, got := sha256.Sum256([]byte(s.config.AdminToken)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return newError(http.StatusUnauthorized, typeInvalid, "unauthorized", "", "the bearer token is missing or wrong")
	}
	return nil
}
