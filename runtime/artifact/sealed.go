package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/transformersquared/operator/runtime/contract"
)

// ErrDamaged marks a file that is not as it was written.
var ErrDamaged = errors.New("it was damaged or changed after it was written")

// A sealed file is an object of JSON whose last member is the digest of the file without that
// member: bits that have flipped are found also where nothing else knows the file's digest.
// Whoever ignores members that it does not know can read it, too.
const sealHead = ",\n  \"sealed\": \"" + contract.DigestPrefix

const objectEnd = "\n}\n"

var sealed = regexp.MustCompile("(?s)" + sealHead + "([0-9a-f]{64})\"" + objectEnd + "$")

// WriteSealed writes an object as WriteJSONAtomic does, and seals it.
func WriteSealed(path string, v any) error {
	plain, err := indented(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return WriteFileAtomic(path, func(w io.Writer) error {
		_, err := w.Write(withSeal(plain))
		return err
	})
}

func withSeal(plain []byte) []byte {
	body, ok := bytes.CutSuffix(plain, []byte(objectEnd))
	if !ok {
		return plain // An object without members, of which no bit says anything.
	}
	return fmt.Appendf(bytes.Clone(body), "%s%s\"%s", sealHead, sum(plain), objectEnd)
}

func sum(b []byte) string {
	digest := sha256.Sum256(b)
	return hex.EncodeToString(digest[:])
}

// ReadSealed reads a file of at most limit bytes that WriteSealed has written, and returns what
// was sealed: JSON without the seal. One that is not as it was written is an ErrDamaged. A file
// without a seal, as earlier versions wrote them, is returned as it is.
func ReadSealed(path string, limit int64) ([]byte, error) {
	b, err := ReadBounded(path, limit)
	if err != nil {
		return nil, err
	}
	at := sealed.FindSubmatchIndex(b)
	if at == nil {
		return b, nil
	}
	plain := append(bytes.Clone(b[:at[0]]), objectEnd...)
	if want := string(b[at[2]:at[3]]); sum(plain) != want {
		return nil, fmt.Errorf("%s: %w: its digest is %s, and it was sealed with %s", path, ErrDamaged, sum(plain), want)
	}
	return plain, nil
}

// indented is v as JSON for people.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
