package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
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
	mux.Handle("GET "+contract.PathMetrics, s.metrics.handler())
	mux.HandleFunc("GET "+contract.PathExpertSet, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.Status())
	})
	mux.HandleFunc("PUT "+contract.PathExpertSet, s.putExpertSet)
	mux.HandleFunc("GET "+contract.PathOutcomes, s.listOutcomes)
	mux.HandleFunc("GET "+contract.PathCurve, s.getCurve)
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text) //nolint:gosec // The type above says that it is no HTML.
}

// unready says why the server should not receive requests, nil if it should.
func (s *Server) unready() error {
	switch {
	case s.draining.Load():
		return errors.New("shutting down")
	case s.core.Load() == nil:
		return errNotLoaded
	case s.set.Load() == nil:
		return s.loader.absence()
	}
	return nil
}

// putExpertSet records the set and answers with the status at once: 200 where
// it is served already, and its candidate, 202 where it will be loaded. A set that makes no sense by
// itself is 422, and what was desired before stays so.
func (s *Server) putExpertSet(w http.ResponseWriter, r *http.Request) {
	if e := s.authorise(r); e != nil {
		writeError(w, e)
		return
	}
	body, err := s.bodies.readWithin(w, r, maxSetBytes)
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	defer body.release()
	set, err := parseSet(body.bytes)
	if err != nil {
		writeError(w, invalid("", "invalid_json", "%s", err.Error()))
		return
	}
	if _, err := s.loader.offer(set, false); err != nil {
		status := s.Status()
		// It is about the set that was offered, not about the one that is desired.
		status.Error = loadError("", err)
		writeJSON(w, http.StatusUnprocessableEntity, status)
		return
	}
	status := s.Status()
	code := http.StatusOK
	if status.ExpertSetDigest != status.DesiredDigest || status.Candidate != nil && !status.Candidate.Served {
		code = http.StatusAccepted
	}
	writeJSON(w, code, status)
}

// maxToken bounds the file of the token.
const maxToken = 4 << 10

// adminToken returns the token that must be presented, from where it is.
func (s *Server) adminToken() (string, *apiError) {
	if s.config.AdminToken != "" {
		return s.config.AdminToken, nil
	}
	none := func(why string) *apiError {
		return newError(http.StatusForbidden, typeInvalid, "forbidden", "",
			"this server has no token (%s): its experts cannot be changed over HTTP", why)
	}
	if s.config.AdminTokenFile == "" {
		return "", none(contract.EnvAdminToken + " is not set")
	}
	b, err := artifact.ReadBounded(s.config.AdminTokenFile, maxToken)
	if err != nil {
		s.log.Warn("Could not read the admin token", "error", err)
		return "", none(s.config.AdminTokenFile + " cannot be read")
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", none(s.config.AdminTokenFile + " is empty")
	}
	return token, nil
}

// authorise checks the bearer token. Digests are compared, so that the time
// taken tells nothing about the token, not even its length.
func (s *Server) authorise(r *http.Request) *apiError {
	token, e := s.adminToken()
	if e != nil {
		return e
	}
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return newError(http.StatusUnauthorized, typeInvalid, "unauthorized", "", "the bearer token is missing or wrong")
	}
	return nil
}
