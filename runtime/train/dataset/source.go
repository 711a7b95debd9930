package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// timeout is for a whole download.
const timeout = 10 * time.Minute

// read returns the name and content of the spec's file, verified by its digest.
func read(ctx context.Context, spec contract.DatasetSpec) (name string, content []byte, err error) {
	if name = spec.Name; name == "" {
		name = spec.Path
	}
	if spec.URL != "" {
		name, content, err = download(ctx, spec.URL, spec.Name)
	} else {
		content, err = readFile(spec.Path, name)
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

// download gets a file by http or https. name, where it has none, is the address
// without a password or query, which may hold a secret.
func download(ctx context.Context, address, called string) (name string, content []byte, err error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		// The error of Parse repeats the address, secrets and all.
		return "", nil, failure.Permanentf(contract.ReasonUsage, "the data set's url is not an http or https address")
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if name = called; name == "" {
		name = shown.String()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return name, nil, failure.Permanentf(contract.ReasonUsage, "the data set's url %s cannot be asked for", name)
	}
	// The file as it is: its digest is that of what it is stored as.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the address
		}
		return name, nil, unreachable(ctx, fmt.Errorf("getting data set %s: %w", name, err))
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return name, nil, refused(name, response.StatusCode, response.Status)
	}
	content, err = readBounded(response.Body)
	if err != nil {
		return name, nil, unreachable(ctx, fmt.Errorf("reading data set %s: %w", name, err))
	}
	return name, content, nil
}

// unreachable classifies an error of the network, unless it is classified or
// the caller gave up.
func unreachable(ctx context.Context, err error) error {
	var classified *failure.Error
	if errors.As(err, &classified) || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return failure.Transient(contract.ReasonSourceUnreachable, err)
}

func refused(name string, code int, status string) error {
	switch code {
	case http.StatusNotFound, http.StatusGone:
		return failure.Transientf(contract.ReasonSourceNotFound, "data set %s is not there (%s): correct the url or publish the file", name, status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return failure.Permanentf(contract.ReasonUnauthorized, "data set %s may not be read (%s): data sets are fetched without credentials", name, status)
	default:
		return failure.Transientf(contract.ReasonSourceUnreachable, "data set %s: the server answered %s", name, status)
	}
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
