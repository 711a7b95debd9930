package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// File is the file of a probe's folder that has its numbers.
const File = "probe.safetensors"

const (
	format   = "t2-probe/1"
	maxBytes = 64 << 20 // 33 labels of a state of 16,384 numbers are 2 MB.

	weightsName, biasName = "weights", "bias"

	metaFormat = "format"
	metaBase   = "baseDigest"
	metaLabels = "labels"
	metaLeast  = "least"
)

// Write publishes a probe under root/contract.DirProbes. Of its manifest all but files and
// digest is used.
func Write(root string, p *Probe) (_ contract.ProbeManifest, err error) {
	m := p.Manifest
	defer func() {
		if err != nil {
			err = fmt.Errorf("publishing probe: %w", err)
		}
	}()
	if !contract.ValidDigest(m.BaseDigest) {
		return m, fmt.Errorf("of base %q, which is no digest", m.BaseDigest)
	}
	labels, err := json.Marshal(m.Labels)
	if err != nil {
		return m, err
	}
	stage, err := artifact.Stage(filepath.Join(root, contract.DirProbes))
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stage.Discard())
		}
	}()
	weights := tensor.New(len(p.weights), p.Width())
	for k, row := range p.weights {
		copy(weights.Row(k), row)
	}
	err = checkpoint.WriteSafetensors(filepath.Join(stage.Dir(), File), map[string]*tensor.Tensor{
		weightsName: weights, biasName: {Shape: []int{len(p.bias)}, Data: p.bias},
	}, tensor.F32, map[string]string{
		metaFormat: format, metaBase: m.BaseDigest, metaLabels: string(labels),
		metaLeast: strconv.FormatFloat(m.Least, 'g', -1, 64),
	})
	if err != nil {
		return m, err
	}
	if m.Files, err = artifact.HashFiles(stage.Dir(), []string{File}); err != nil {
		return m, err
	}
	m.Digest, m.SizeBytes = contract.DigestFiles(m.Files), artifact.TotalBytes(m.Files)
	return m, stage.PublishDigest(m.Digest, m)
}

// Read reads a probe from its folder, verifying its files. What is damaged is refused with
// contract.ReasonDigestMismatch, what is malformed with contract.ReasonInvalidExpert.
func Read(ctx context.Context, dir string) (*Probe, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("reading probe: %w", err)
	}
	m, err := artifact.ReadManifest[contract.ProbeManifest](dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.Permanentf(contract.ReasonInvalidExpert, "%s has no %s: it is no probe", dir, contract.ManifestFile)
	}
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidExpert, err)
	}
	if got := contract.DigestFiles(m.Files); got != m.Digest {
		return nil, failure.Permanentf(contract.ReasonDigestMismatch, "manifest of %s says its digest is %s, but its files give %s", dir, m.Digest, got)
	}
	if len(m.Files) != 1 || m.Files[0].Path != File || m.SizeBytes > maxBytes {
		return nil, failure.Permanentf(contract.ReasonInvalidExpert, "%s must have %s of at most %d bytes and nothing else", dir, File, maxBytes)
	}
	if err := artifact.VerifyContext(ctx, dir, m.Files); err != nil {
		return nil, failure.Content(contract.ReasonDigestMismatch, fmt.Errorf("probe: %w", err))
	}
	f, err := checkpoint.Open(filepath.Join(dir, File))
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidExpert, err)
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	p, err := from(f, m)
	if err != nil {
		return nil, failure.Content(contract.ReasonInvalidExpert, fmt.Errorf("%s: %w", dir, err))
	}
	return p, nil
}

// from reads what a file has, which must be what the manifest says.
func from(f *checkpoint.File, m contract.ProbeManifest) (*Probe, error) {
	meta := f.Metadata()
	if got := meta[metaFormat]; got != format {
		return nil, fmt.Errorf("has format %q, a probe has %q: it is none or of another version", got, format)
	}
	var labels []string
	if err := json.Unmarshal([]byte(meta[metaLabels]), &labels); err != nil {
		return nil, fmt.Errorf("metadata %s: %w", metaLabels, err)
	}
	least, err := strconv.ParseFloat(meta[metaLeast], 64)
	if err != nil || !(least >= 0 && least <= 1) {
		return nil, fmt.Errorf("metadata %s is %q, a probability is 0 to 1", metaLeast, meta[metaLeast])
	}
	if !slices.Equal(labels, m.Labels) || least != m.Least || meta[metaBase] != m.BaseDigest {
		return nil, errors.New("the manifest and the file disagree about labels, the least probability or the base")
	}
	weights, err := f.Tensor(weightsName)
	if err != nil {
		return nil, err
	}
	bias, err := f.Tensor(biasName)
	if err != nil {
		return nil, err
	}
	if len(labels) < 2 || len(weights.Shape) != 2 || weights.Shape[0] != len(labels) || weights.Shape[1] < 1 || len(bias.Data) != len(labels) {
		return nil, fmt.Errorf("weights of shape %v and a bias of %v for %d labels", weights.Shape, bias.Shape, len(labels))
	}
	for _, v := range slices.Concat(weights.Data, bias.Data) {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, errors.New("has numbers that are none")
		}
	}
	p := &Probe{Manifest: m, bias: bias.Data}
	for k := range labels {
		p.weights = append(p.weights, weights.Row(k))
	}
	return p, nil
}
