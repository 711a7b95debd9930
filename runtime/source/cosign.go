package source

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// How cosign keeps signatures in a registry.
const (
	// simpleSigning is the media type of a layer that is a payload; its signature is an
	// annotation. The manifest has the tag sha256-….sig or, by OCI 1.1, refers to what is
	// signed.
	simpleSigning       = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	signatureArtifact   = "application/vnd.dev.cosign.artifact.sig.v1+json"
	// bundlePrefix begins the artifact types of Sigstore bundles, which refer to what is
	// signed; since cosign 3 they are the default.
	bundlePrefix  = "application/vnd.dev.sigstore.bundle"
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// Bounds of what is read to find a signature.
const (
	maxSignatures     = 256
	maxSignatureBytes = 4 << 20
)

// errTaken ends the search for signatures: one is valid.
var errTaken = errors.New("a signature is valid")

// signatures is what was found of an artifact's signatures.
type signatures struct {
	found int
	// last is why the one that was looked at last is not taken.
	last error
	// id is the key of the one that is.
	id string
}

// take counts a signature, of this key or not valid for that reason, and ends the search
// with errTaken where it is valid.
func (s *signatures) take(id string, err error) error {
	s.found++
	s.id, s.last = id, err
	if err == nil {
		return errTaken
	}
	return nil
}

// checkCosign makes sure that cosign signed the artifact that the reference means, by a key
// that is trusted, before any of its layers is fetched.
func (t *ociTree) checkCosign(ctx context.Context, v *verification) error {
	digest := t.manifest.Digest.String()
	var seen signatures
	err := t.taggedSignatures(ctx, v, digest, &seen)
	if err == nil {
		err = t.referringSignatures(ctx, v, digest, &seen)
	}
	switch {
	case errors.Is(err, errTaken):
		v.keyID = seen.id
		return nil
	case err != nil:
		return err
	case seen.found == 0:
		return failure.Permanentf(contract.ReasonSignatureMissing,
			"%s (%s) has no signature of cosign: sign it with cosign sign --key, or take verify.cosign away", t, digest)
	default:
		return failure.Permanentf(contract.ReasonSignatureInvalid,
			"%s (%s): none of its signatures (%d) is valid by %s: %w; sign it with one of these keys, or correct them", t, digest, seen.found, v.trustedKeys(), seen.last)
	}
}

// taggedSignatures looks at those under the tag that cosign derives from the digest.
func (t *ociTree) taggedSignatures(ctx context.Context, v *verification, digest string, seen *signatures) error {
	_, b, err := t.fetchManifest(ctx, strings.Replace(digest, ":", "-", 1)+".sig")
	if errors.Is(err, errdef.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(b, &manifest); err != nil {
		return seen.take("", fmt.Errorf("the signature's manifest is no JSON: %w", err))
	}
	return t.simpleSignatures(ctx, v, digest, manifest, seen)
}

// referringSignatures looks at those whose manifests refer to the artifact. All of them are
// read: a registry's list may have their types wrong (see findings/registry-referrers.sh).
func (t *ociTree) referringSignatures(ctx context.Context, v *verification, digest string, seen *signatures) error {
	var all []ocispec.Descriptor
	err := t.repo.Referrers(ctx, t.manifest, "", func(some []ocispec.Descriptor) error {
		all = append(all, some...)
		if len(all) > maxSignatures {
			return fmt.Errorf("%s: more than %d manifests refer to %s", t, maxSignatures, digest)
		}
		return nil
	})
	if err != nil {
		return t.explain(ctx, err)
	}
	for _, desc := range all {
		_, b, err := t.fetchManifest(ctx, desc.Digest.String())
		if err != nil {
			return err
		}
		var manifest ocispec.Manifest
		if json.Unmarshal(b, &manifest) != nil {
			continue // Of a kind that is none of ours.
		}
		kind := manifest.ArtifactType
		if kind == "" {
			kind = manifest.Config.MediaType
		}
		switch {
		case strings.HasPrefix(kind, bundlePrefix):
			err = t.bundles(ctx, v, digest, manifest, seen)
		case kind == signatureArtifact:
			err = t.simpleSignatures(ctx, v, digest, manifest, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// simpleSignatures looks at the layers of a manifest that are signed payloads.
func (t *ociTree) simpleSignatures(ctx context.Context, v *verification, digest string, m ocispec.Manifest, seen *signatures) error {
	for _, layer := range m.Layers[:min(len(m.Layers), maxSignatures)] {
		if layer.MediaType != simpleSigning {
			continue
		}
		b, err := t.fetchSmall(ctx, layer)
		if err != nil {
			return err
		}
		if err := seen.take(v.payload(b, layer.Annotations[signatureAnnotation], digest)); err != nil {
			return err
		}
	}
	return nil
}

// payload checks a signed payload: that a key that is trusted signed it, and that it is of
// this digest.
func (v *verification) payload(b []byte, sig, digest string) (id string, err error) {
	raw, err := base64.StdEncoding.DecodeString(sig)
	if err != nil {
		return "", fmt.Errorf("annotation %s is no base64: %w", signatureAnnotation, err)
	}
	id, ok := v.signedBy(raw, b)
	if !ok {
		return "", errNotSigned
	}
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(b, &p); err != nil || p.Critical.Type != payload.CosignSignatureType {
		return "", fmt.Errorf("what is signed is no %q", payload.CosignSignatureType)
	}
	if got := p.Critical.Image.DockerManifestDigest; got != digest {
		return "", fmt.Errorf("what is signed is %s", got)
	}
	return id, nil
}

// bundles looks at the layers of a manifest that are Sigstore bundles. Those of other
// statements than cosign's signature, such as provenance, are none, whoever signed them.
func (t *ociTree) bundles(ctx context.Context, v *verification, digest string, m ocispec.Manifest, seen *signatures) error {
	for _, layer := range m.Layers[:min(len(m.Layers), maxSignatures)] {
		if !strings.HasPrefix(layer.MediaType, bundlePrefix) {
			continue
		}
		b, err := t.fetchSmall(ctx, layer)
		if err != nil {
			return err
		}
		id, err := v.bundle(b, digest)
		if errors.Is(err, errOtherStatement) {
			continue
		}
		if err := seen.take(id, err); err != nil {
			return err
		}
	}
	return nil
}

// errOtherStatement says that a bundle is of something else than a signature.
var errOtherStatement = errors.New("it is another statement than a signature")

// bundle checks a bundle: that it is one of cosign's signatures, that a key that is trusted
// signed it, and that it is of this digest.
func (v *verification) bundle(b []byte, digest string) (id string, err error) {
	e, err := readBundle(b)
	if err != nil {
		return "", err
	}
	var s struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(e.statement, &s); err != nil {
		return "", fmt.Errorf("what is signed is no statement: %w", err)
	}
	// Attestations have older types than signatures.
	if s.PredicateType != signPredicate {
		return "", errOtherStatement
	}
	if s.Type != inTotoStatement {
		return "", fmt.Errorf("what is signed is a %q, not a %q", s.Type, inTotoStatement)
	}
	if id, err = v.envelope(e); err != nil {
		return "", err
	}
	algorithm, hash, _ := strings.Cut(digest, ":")
	for _, subject := range s.Subject {
		if subject.Digest[algorithm] == hash {
			return id, nil
		}
	}
	return "", errors.New("what is signed is another artifact")
}

// fetchSmall returns a blob that has a few kilobytes, checked.
func (t *ociTree) fetchSmall(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.stall, errStalled)
	defer cancel()
	if desc.Size > maxSignatureBytes {
		return nil, fmt.Errorf("%s: the signature %s has %d bytes", t, desc.Digest, desc.Size)
	}
	b, err := content.FetchAll(ctx, t.repo.Blobs(), desc)
	if err != nil {
		return nil, t.explain(ctx, err)
	}
	return b, nil
}
