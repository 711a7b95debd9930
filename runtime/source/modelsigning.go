package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// What OpenSSF's model signing 1.0 signs: the list of a model's files, each with its hash.
const (
	modelPredicate = "https://model_signing/signature/v1.0"
	// filesMethod hashes whole files; the other method that there is hashes parts of them.
	filesMethod   = "files"
	hashAlgorithm = "sha256"
)

// modelStatement is the statement in a model's signature.
type modelStatement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
	Predicate     struct {
		How struct {
			Method   string `json:"method"`
			HashType string `json:"hash_type"`
		} `json:"serialization"` //nolint:misspell // The format's word.
		Resources []struct {
			Name      string `json:"name"`
			Algorithm string `json:"algorithm"`
			Digest    string `json:"digest"`
		} `json:"resources"`
	} `json:"predicate"`
}

// signedTree is a folder whose files must be as they were signed. A file that is asked for
// is compared before anybody reads it; one that is signed and not there is missed, so that
// nobody can take a file away either. What nobody asks for is neither fetched nor compared.
type signedTree struct {
	tree
	hashes map[string]string // File → "sha256:…".
}

// openSigned reads the signature of a folder, which lies in it, and returns the folder as it
// was signed.
func openSigned(ctx context.Context, from tree, v *verification) (_ tree, err error) {
	if _, ok := from.(single); ok {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"%s is a single file, and verify.modelSigning is of a folder with %s in it: name the folder", from, contract.SignatureFile)
	}
	dir, err := os.MkdirTemp("", "t2-signature-")
	if err != nil {
		return nil, fmt.Errorf("reading the signature: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, contract.SignatureFile)
	err = from.take(ctx, contract.SignatureFile, path, maxSignatureFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.Permanentf(contract.ReasonSignatureMissing,
			"%s has no %s: sign it with model_signing sign key, or take verify.modelSigning away", from, contract.SignatureFile)
	}
	if err != nil {
		return nil, err
	}
	bundle, err := artifact.ReadBounded(path, maxSignatureFile)
	if err != nil {
		return nil, fmt.Errorf("reading the signature: %w", err)
	}
	said, id, err := v.statement(bundle)
	if err != nil {
		return nil, failure.Permanentf(contract.ReasonSignatureInvalid, "%s of %s is not valid by %s: %w; sign it with one of these keys, or correct them",
			contract.SignatureFile, from, v.trustedKeys(), err)
	}
	hashes, err := signedFiles(said)
	if err != nil {
		return nil, failure.Permanentf(contract.ReasonSignatureInvalid, "%s of %s: %w; sign it with model_signing 1.0 or later", contract.SignatureFile, from, err)
	}
	v.keyID = id
	return &signedTree{tree: from, hashes: hashes}, nil
}

// maxSignatureFile bounds SignatureFile, which has a line for each file.
const maxSignatureFile = maxSmallFile

// signedFiles reads the hashes of files from a statement, and checks that it agrees with
// itself.
func signedFiles(statement []byte) (map[string]string, error) {
	var s modelStatement
	if err := json.Unmarshal(statement, &s); err != nil {
		return nil, fmt.Errorf("what is signed is no statement: %w", err)
	}
	if s.Type != inTotoStatement || s.PredicateType != modelPredicate {
		return nil, fmt.Errorf("what is signed is a %q, not a %q", s.PredicateType, modelPredicate)
	}
	if how := s.Predicate.How; how.Method != filesMethod || how.HashType != hashAlgorithm {
		return nil, fmt.Errorf("it was made by method %q with %q, and %q with %q is read", how.Method, how.HashType, filesMethod, hashAlgorithm)
	}
	hashes := map[string]string{}
	root := sha256.New()
	for _, r := range s.Predicate.Resources {
		raw, err := hex.DecodeString(r.Digest)
		if r.Algorithm != hashAlgorithm || err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("the hash of %q is no %s", r.Name, hashAlgorithm)
		}
		if _, twice := hashes[r.Name]; twice {
			return nil, fmt.Errorf("it lists %q twice", r.Name)
		}
		hashes[r.Name] = contract.DigestPrefix + hex.EncodeToString(raw)
		root.Write(raw)
	}
	if len(s.Subject) != 1 || s.Subject[0].Digest[hashAlgorithm] != hex.EncodeToString(root.Sum(nil)) {
		return nil, errors.New("its subject is not the list of its files")
	}
	return hashes, nil
}

func (t *signedTree) take(ctx context.Context, name, dst string, limit int64) error {
	want, signed := t.hashes[name]
	err := t.tree.take(ctx, name, dst, limit)
	if errors.Is(err, fs.ErrNotExist) && signed {
		return failure.Permanentf(contract.ReasonSignatureInvalid, "%s is signed, and %s does not have it: bring the file back, or sign what is there", name, t)
	}
	if err != nil {
		return err
	}
	if !signed {
		return failure.Permanentf(contract.ReasonSignatureInvalid, "%s has %s, which is not signed: sign it with the others, or take it away", t, name)
	}
	entry, err := artifact.HashFile(filepath.Dir(dst), filepath.Base(dst))
	if err != nil {
		return fmt.Errorf("comparing %s with its signature: %w", name, err)
	}
	if entry.SHA256 != want {
		return failure.Permanentf(contract.ReasonSignatureInvalid, "%s of %s has digest %s, and %s is signed: bring the file back, or sign it again", name, t, entry.SHA256, want)
	}
	return nil
}

// bare is a tree without what checks it.
func bare(t tree) tree {
	if s, ok := t.(*signedTree); ok {
		return s.tree
	}
	return t
}
