package dataset

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/transformersquared/operator/runtime/artifact"
)

// foreign are files that are not what one thinks, by how they begin.
var foreign = []struct{ magic, what string }{
	{"PAR1", "this is a Parquet file: convert it to JSON, one object a line"},
	{"PK\x03\x04", "this is a ZIP archive: unpack it, or compress the file by gzip"},
	{"\x28\xb5\x2f\xfd", "this is compressed by Zstandard: unpack it, or compress it by gzip"},
	{"BZh", "this is compressed by bzip2: unpack it, or compress it by gzip"},
	{"\xfd7zXZ\x00", "this is compressed by xz: unpack it, or compress it by gzip"},
	{"\xff\xfe", "this is text in UTF-16: save it as UTF-8"},
	{"\xfe\xff", "this is text in UTF-16: save it as UTF-8"},
	{"<!doctype html", "this is a page in HTML, not the file: use the address that serves the file itself"},
	{"<html", "this is a page in HTML, not the file: use the address that serves the file itself"},
}

// unpack returns the text of a file, which may be compressed by gzip, whatever
// its name. What unpacks to more than limit bytes is refused.
func unpack(content []byte, limit int64) ([]byte, error) {
	if bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
		packed, err := gzip.NewReader(bytes.NewReader(content))
		if err == nil {
			content, err = io.ReadAll(io.LimitReader(packed, limit+1))
		}
		if err != nil {
			return nil, fmt.Errorf("the file is compressed by gzip, and damaged (%w): get or pack it again", err)
		}
		if int64(len(content)) > limit {
			return nil, fmt.Errorf("the file unpacks to more than %d bytes: use fewer records", limit)
		}
	}
	if err := artifact.CheckLFSPointer("this", content); err != nil {
		return nil, err
	}
	head := strings.ToLower(strings.TrimSpace(string(content[:min(len(content), 64)])))
	for _, f := range foreign {
		if bytes.HasPrefix(content, []byte(f.magic)) || strings.HasPrefix(head, f.magic) {
			return nil, errors.New(f.what)
		}
	}
	return bytes.TrimPrefix(content, []byte("\ufeff")), nil
}

// object is a record as the file has it.
type object struct {
	text []byte
	// number of its line, or of the element where the file is one array; from 1.
	number int
}

// What object numbers count.
const (
	unitLine   = "line"
	unitRecord = "record"
)

// errDamaged marks an error of the whole file: what comes after it means nothing.
var errDamaged = errors.New("this is no JSON")

// objects calls yield for each record of a file, until it returns false: for the
// lines that are not blank, or for the elements where the file is one JSON
// array. unit says which.
func objects(content []byte, yield func(object) bool) (unit string, err error) {
	if trimmed := bytes.TrimLeft(content, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		return unitRecord, elements(content, yield)
	}
	number := 0
	for line := range bytes.Lines(content) {
		number++
		if line = bytes.TrimRight(line, "\r\n"); len(bytes.TrimSpace(line)) > 0 && !yield(object{line, number}) {
			break
		}
	}
	return unitLine, nil
}

func elements(content []byte, yield func(object) bool) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	damaged := func(number int, err error) error {
		return fmt.Errorf("%s %d: %w (%w at byte %d): correct the file", unitRecord, number, errDamaged, err, decoder.InputOffset())
	}
	if _, err := decoder.Token(); err != nil { // [
		return damaged(1, err)
	}
	number := 0
	for decoder.More() {
		number++
		var text json.RawMessage
		if err := decoder.Decode(&text); err != nil {
			return damaged(number, err)
		}
		if !yield(object{text, number}) {
			return nil
		}
	}
	if _, err := decoder.Token(); err != nil { // ]
		return damaged(number+1, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return damaged(number+1, errors.New("text after the array"))
	}
	return nil
}

// unmarshal decodes one object. Fields that a format does not know are allowed:
// the well-known sets carry identifiers and subjects along.
func unmarshal(text []byte, into any) error {
	err := json.Unmarshal(text, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w (%w at byte %d)", errDamaged, err, syntax.Offset)
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("this is a JSON %s, not an object", kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("field %q is a JSON %s, not a %s", kind.Field, kind.Value, kind.Type)
	case err != nil:
		return fmt.Errorf("%w (%w)", errDamaged, err)
	}
	if !utf8.Valid(text) {
		return errors.New("this is no UTF-8: save the file as UTF-8")
	}
	return nil
}
