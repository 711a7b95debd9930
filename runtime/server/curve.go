package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

// maxCurveFile bounds the file of a learning curve: a line of it has some 150 bytes.
const maxCurveFile = 64 << 20

// getCurve handles contract.PathCurve: the learning curve of an expert in the volume.
func (s *Server) getCurve(w http.ResponseWriter, r *http.Request) {
	digest := r.URL.Query().Get("digest")
	if !contract.ValidDigest(digest) {
		plain(w, http.StatusBadRequest, fmt.Sprintf("?digest=%.80q is no digest: give that of an expert, sha256: and 64 lower-case hex digits", digest))
		return
	}
	if s.config.ExpertDir == nil {
		plain(w, http.StatusNotFound, "this server has no experts")
		return
	}
	dir, err := s.config.ExpertDir(contract.ExpertRef{Digest: digest, TransferFrom: r.URL.Query().Get("from")})
	if err != nil {
		plain(w, http.StatusNotFound, fmt.Sprintf("expert %s: %v", digest, err))
		return
	}
	curve, err := readCurve(dir, digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		plain(w, http.StatusNotFound, fmt.Sprintf("expert %s is not in the volume, or was not trained here: %v", digest, err))
	case err != nil:
		s.log.Warn("Could not read a learning curve", "expert", digest, "error", err)
		plain(w, http.StatusInternalServerError, err.Error())
	default:
		writeJSON(w, http.StatusOK, curve)
	}
}

// readCurve reads the curve of the expert in dir, which must have this digest.
func readCurve(dir, digest string) (contract.Curve, error) {
	manifest, err := artifact.ReadManifest[contract.ExpertManifest](dir)
	if err != nil {
		return contract.Curve{}, err
	}
	if manifest.Digest != digest {
		return contract.Curve{}, fmt.Errorf("%s in %s is of %s", contract.ManifestFile, dir, manifest.Digest)
	}
	curve := contract.Curve{Skill: manifest.Skill, BaselineScore: manifest.BaselineScore, Points: []contract.CurvePoint{}}
	path := filepath.Join(dir, contract.MetricsFile)
	b, err := artifact.ReadBounded(path, maxCurveFile)
	if err != nil {
		return contract.Curve{}, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for number := 1; lines.Scan(); number++ {
		var p contract.CurvePoint
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return contract.Curve{}, fmt.Errorf("reading line %d of %s: %w", number, path, err)
		}
		curve.Points = append(curve.Points, p)
	}
	if err := lines.Err(); err != nil {
		return contract.Curve{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return curve.Thin(contract.MaxCurvePoints), nil
}
