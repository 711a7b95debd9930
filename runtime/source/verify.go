package source

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// maxKeys bounds how many keys may be trusted at once.
const maxKeys = 64

// inTotoPayload is the payload type of signed statements, and inTotoStatement their type.
const (
	inTotoPayload   = "application/vnd.in-toto+json"
	inTotoStatement = "https://in-toto.io/Statement/v1"
)

// verification is whose signature a source must have.
type verification struct {
	method string
	keys   []trusted
	// named is what messages call the keys.
	named string
	// keyID is that of the key whose signature was found to be valid.
	keyID string
}

// result is what was found; nil where nothing was asked for.
func (v *verification) result() *contract.Verified {
	if v == nil {
		return nil
	}
	return &contract.Verified{Method: v.method, KeyID: v.keyID}
}

// trusted is a public key.
type trusted struct {
	id string
	// verifiers are one for each hash that its signatures may be of: that of the key's own
	// size, SHA-256, which cosign took for every key, and for Ed25519 SHA-512 (Ed25519ph),
	// which cosign takes since its third version.
	verifiers []signature.Verifier
}

// newVerification reads keys; nil where nothing is to be verified.
func newVerification(v *contract.Verification, o Options) (*verification, error) {
	if v == nil {
		return nil, nil
	}
	if v.Method != contract.VerifyCosign && v.Method != contract.VerifyModelSigning {
		return nil, failure.Permanentf(contract.ReasonUsage, "verify.method %q is none of %s, %s", v.Method, contract.VerifyCosign, contract.VerifyModelSigning)
	}
	text := []byte(v.Keys)
	if v.Keys == "" {
		text = o.VerifyKeys
	}
	made := &verification{method: v.Method, named: cmp.Or(v.From, "verify."+v.Method+".publicKeys")}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		key, err := trust(block)
		if err != nil {
			return nil, failure.Permanentf(contract.ReasonUsage, "%s, key %d: %w", made.named, len(made.keys)+1, err)
		}
		made.keys = append(made.keys, key)
	}
	if len(made.keys) == 0 || len(made.keys) > maxKeys || len(bytes.TrimSpace(text)) > 0 {
		return nil, failure.Permanentf(contract.ReasonUsage,
			"%s must be 1 to %d public keys in PEM (-----BEGIN PUBLIC KEY-----), and nothing else: %d were read", made.named, maxKeys, len(made.keys))
	}
	return made, nil
}

func trust(block *pem.Block) (trusted, error) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return trusted{}, err
	}
	der, err := cryptoutils.MarshalPublicKeyToDER(key)
	if err != nil {
		return trusted{}, err
	}
	sum := sha256.Sum256(der)
	t := trusted{id: contract.DigestPrefix + hex.EncodeToString(sum[:])}
	own, err := signature.LoadDefaultVerifier(key)
	if err != nil {
		return trusted{}, err
	}
	old, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return trusted{}, err
	}
	t.verifiers = []signature.Verifier{own, old}
	if key, ok := key.(ed25519.PublicKey); ok {
		hashed, err := signature.LoadED25519phVerifier(key)
		if err != nil {
			return trusted{}, err
		}
		t.verifiers = append(t.verifiers, hashed)
	}
	return t, nil
}

// signedBy returns the ID of the key that made a signature of a message.
func (v *verification) signedBy(sig, message []byte) (id string, ok bool) {
	for _, key := range v.keys {
		if slices.ContainsFunc(key.verifiers, func(s signature.Verifier) bool {
			return s.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil
		}) {
			return key.id, true
		}
	}
	return "", false
}

// errNotSigned says that a signature is none of the keys that are trusted.
var errNotSigned = errors.New("its signature is not by a key that is trusted")

// envelope is a signed statement, whose signatures are still to be checked.
type envelope struct {
	statement  []byte
	signatures [][]byte
}

// readBundle reads the signed statement of a Sigstore bundle. Keys are given, so that neither
// certificates nor a transparency log have a part in it.
func readBundle(bundle []byte) (envelope, error) {
	var b protobundle.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(bundle, &b); err != nil {
		return envelope{}, fmt.Errorf("it is no Sigstore bundle: %w", err)
	}
	e := b.GetDsseEnvelope()
	if e == nil || e.GetPayloadType() != inTotoPayload {
		return envelope{}, fmt.Errorf("it is no signed statement (%s)", inTotoPayload)
	}
	read := envelope{statement: e.GetPayload()}
	for _, s := range e.GetSignatures() {
		read.signatures = append(read.signatures, s.GetSig())
	}
	return read, nil
}

// envelope returns the ID of the key that signed a statement.
func (v *verification) envelope(e envelope) (id string, err error) {
	message := dsse.PAE(inTotoPayload, e.statement)
	for _, s := range e.signatures {
		if id, ok := v.signedBy(s, message); ok {
			return id, nil
		}
	}
	return "", errNotSigned
}

// statement returns what a Sigstore bundle says, and which of the keys signed it.
func (v *verification) statement(bundle []byte) (statement []byte, id string, err error) {
	e, err := readBundle(bundle)
	if err != nil {
		return nil, "", err
	}
	id, err = v.envelope(e)
	if err != nil {
		return nil, "", err
	}
	return e.statement, id, nil
}

// trustedKeys names the keys in messages.
func (v *verification) trustedKeys() string {
	var ids []string
	for _, k := range v.keys {
		if len(ids) == 3 {
			ids = append(ids, "…")
			break
		}
		ids = append(ids, k.id)
	}
	return fmt.Sprintf("%s (%s)", v.named, strings.Join(ids, ", "))
}
