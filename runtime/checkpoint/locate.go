package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// Locate returns the folder that has the files of the model whose artifact is in dir: dir
// itself, also where there is no manifest, or where they are mounted. What is mounted is
// somebody else's and may be another version, so that each file is compared with the manifest.
func Locate(ctx context.Context, dir string) (string, error) {
	m, err := artifact.ReadManifest[contract.ModelManifest](dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir, nil
	case err != nil:
		return "", failure.Content(contract.ReasonInvalidModel, err)
	case m.At == "":
		return dir, nil
	}
	if name, err := contract.DigestDir(m.Digest); err != nil || name != filepath.Base(dir) || contract.DigestFiles(m.Files) != m.Digest {
		return "", failure.Permanentf(contract.ReasonDigestMismatch, "what %s says of the model that is mounted is of another: fetch the model anew", dir)
	}
	_, err = os.Stat(m.At)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", failure.Permanentf(contract.ReasonSourceNotFound,
			"model %s was not copied to the volume: its files are to be mounted at %s, and are not: mount its artifact there, or fetch it without a mount: %w", m.Digest, m.At, err)
	case err == nil:
		err = artifact.Compare(ctx, m.At, m.Files)
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, fs.ErrNotExist):
		err = failure.Permanent(contract.ReasonDigestMismatch, err)
	case err == nil:
		return m.At, nil
	}
	return "", failure.Content(contract.ReasonDigestMismatch,
		fmt.Errorf("what is mounted at %s is not model %s: %w; mount the artifact that was fetched, or fetch it anew", m.At, m.Digest, err))
}
