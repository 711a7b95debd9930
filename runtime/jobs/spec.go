package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// maxSpecBytes bounds a specification; a real one has a few kilobytes.
const maxSpecBytes = 1 << 20

// Managed reports whether a subcommand was started by the operator: its
// specification comes by contract.EnvSpec and not by --spec.
func Managed(specFile string, getenv func(string) string) bool {
	return specFile == "" && getenv(contract.EnvSpec) != ""
}

// HasSpec reports whether there is a specification at all, by --spec or by
// contract.EnvSpec. Where there is none, a subcommand uses its flags.
func HasSpec(specFile string, getenv func(string) string) bool {
	return specFile != "" || getenv(contract.EnvSpec) != ""
}

// LoadSpec reads a subcommand's JSON specification from specFile ("-" is not
// special) or, where that is empty, from contract.EnvSpec. Unknown fields are
// refused: a misspelt field would otherwise silently mean its default. Errors
// are permanent with contract.ReasonUsage.
func LoadSpec[T any](specFile string, getenv func(string) string) (T, error) {
	var zero T
	return LoadSpecOver(zero, specFile, getenv)
}

// LoadSpecOver is LoadSpec where fields that the JSON leaves out keep the
// values of spec.
func LoadSpecOver[T any](spec T, specFile string, getenv func(string) string) (T, error) {
	raw := []byte(getenv(contract.EnvSpec))
	from := "environment variable " + contract.EnvSpec
	if specFile != "" {
		from = specFile
		f, err := os.Open(specFile)
		if err != nil {
			return spec, failure.Permanent(contract.ReasonUsage, fmt.Errorf("opening --spec: %w", err))
		}
		raw, err = io.ReadAll(io.LimitReader(f, maxSpecBytes+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return spec, failure.Permanent(contract.ReasonUsage, fmt.Errorf("reading --spec: %w", err))
		}
	}
	if err := decodeStrict(raw, &spec); err != nil {
		return spec, failure.Permanent(contract.ReasonUsage, fmt.Errorf("specification in %s: %w", from, err))
	}
	return spec, nil
}

func decodeStrict(raw []byte, into any) error {
	if len(raw) > maxSpecBytes {
		return fmt.Errorf("longer than %d bytes", maxSpecBytes)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object: give exactly one")
	}
	return nil
}
