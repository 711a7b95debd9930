package source

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

// ReadFile returns the content of a source that is one file of at most limit bytes, such
// as a data set. A repository of a hub is one of data sets then.
func ReadFile(ctx context.Context, s contract.Source, limit int64, o Options) (_ []byte, err error) {
	dir, err := os.MkdirTemp("", "t2-file-")
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.file = true
	from, err := open(ctx, s, dir, o, &meter{report: o.Progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	one, ok := from.(single)
	if !ok {
		return nil, failure.Permanentf(contract.ReasonUsage, "%s is a folder or an archive where one file is needed", from)
	}
	path := filepath.Join(dir, "file")
	if err := one.takeOnly(ctx, path, limit); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, failure.Transient(contract.ReasonSourceNotFound, err)
		}
		return nil, err
	}
	b, err := artifact.ReadBounded(path, limit)
	if err != nil {
		return nil, fmt.Errorf("reading what was fetched: %w", err)
	}
	return b, nil
}
