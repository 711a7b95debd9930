package train

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/failure"
)

// pathFile is in a run's folder, from its first start on, what it computes on.
const pathFile = "path.json"

// recordedPath is pathFile's content.
type recordedPath struct {
	// Path is backend.Pather's.
	Path string `json:"path"`
}

const maxPath = 4 << 10

// TakePath has a run in a folder go on with the instructions that it was begun with, whose
// results have the same bits, whatever the backend has chosen this time; or records what it
// begins with. Where the backend cannot take them, the log says so: the run goes on, and
// ends a little differently. It is called before anything is loaded.
func TakePath(dir string, be backend.Backend, log *slog.Logger) error {
	pather, ok := be.(backend.Pather)
	if !ok {
		return nil
	}
	path := filepath.Join(dir, pathFile)
	var was recordedPath
	b, err := artifact.ReadSealed(path, maxPath)
	if err == nil {
		err = strictJSON(b, &was)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && failure.System(err):
		return err
	case err != nil || was.Path == "":
		log.Warn("What the run was begun on cannot be read", "file", path, "error", err)
	default:
		if err := pather.TakePath(was.Path); err != nil {
			log.Warn("The run goes on with other instructions than it was begun with: its result may differ in the last bits",
				"begun", was.Path, "now", pather.Path(), "error", err)
		}
	}
	if was.Path == pather.Path() {
		return nil
	}
	if err := artifact.WriteSealed(path, recordedPath{Path: pather.Path()}); err != nil {
		return fmt.Errorf("recording what the run computes on: %w", err)
	}
	return nil
}
