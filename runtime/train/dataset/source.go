package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/source"
)

// read returns the name and content of the spec's file, verified by its digest.
func read(ctx context.Context, spec contract.DatasetSpec) (name string, content []byte, err error) {
	if name = spec.Name; name == "" {
		name = source.Describe(spec.Source())
	}
	if spec.Path != "" {
		content, err = readFile(spec.Path, name)
	} else {
		content, err = fetch(ctx, spec)
	}
	if err != nil {
		return name, nil, err
	}
	if spec.Digest != "" && spec.Digest != digest(content) {
		return name, nil, failure.Permanentf(contract.ReasonDigestMismatch,
			"data set %s has digest %s, but %s was asked for: correct the digest or the file",
			name, digest(content), spec.Digest)
	}
	return name, content, nil
}

// readFile reads a file that people know by name.
func readFile(path, name string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
			err = wrapped.Err // without the path
		}
		err = fmt.Errorf("opening data set %s: %w", name, err)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, failure.Transient(contract.ReasonSourceNotFound, err)
		}
		return nil, err
	}
	content, err := readBounded(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading data set %s: %w", name, err)
	}
	return content, nil
}

// fetch gets a file from a server.
func fetch(ctx context.Context, spec contract.DatasetSpec) (content []byte, err error) {
	o := source.FromEnvironment(func(variable string) string {
		return os.Getenv(contract.CredentialsEnv(variable, spec.Credentials))
	})
	content, err = source.ReadFile(ctx, spec.Source(), MaxBytes, o)
	if err != nil {
		if spec.Name != "" {
			return nil, fmt.Errorf("data set %s: %w", spec.Name, err)
		}
		return nil, fmt.Errorf("data set: %w", err)
	}
	return content, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err == nil && len(content) > MaxBytes {
		err = failure.Permanentf(contract.ReasonInvalidDataset, "the file is larger than %d bytes: use fewer records", MaxBytes)
	}
	return content, err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return contract.DigestPrefix + hex.EncodeToString(sum[:])
}
