// Package export writes a model with some of its matrices replaced as a plain
// checkpoint in Hugging Face layout, which needs nothing of this project: vLLM,
// llama.cpp and transformers read it as they read the base model.
package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// DefaultShardBytes bounds a file of weights, as transformers does.
const DefaultShardBytes = 5_000_000_000

// Compute makes a tensor that takes the place of one of the base model's. It is
// called when the tensor is written, and its result is let go after.
type Compute func(ctx context.Context) (*tensor.Tensor, error)

// Options are what may be chosen.
type Options struct {
	// ShardBytes bounds a file of weights; 0 means DefaultShardBytes.
	ShardBytes int64
	// Note is put into the metadata of the weights, by key. Readers ignore it.
	Note map[string]string
	// Progress is called with the bytes of weights that are written and those that
	// will be. It may be nil.
	Progress func(done, total int64)
}

// companions are the files that go with weights besides the configuration and the
// tokenizer that this runtime reads: what other programs want of a tokenizer, and the
// terms that the model may be used under. A model card is not among them: it
// describes the base.
var companions = []string{
	"vocab.json", "merges.txt", "chat_template.json",
	"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE", "NOTICE.txt", "USE_POLICY.md",
}

// Write writes the model with the replacements, by the names of tensors such as
// model.layers.0.mlp.up_proj.weight, to the folder dir, which must not be there yet or
// be empty. The names, dtypes and shapes of all tensors stay, a head that is tied to
// the embedding stays tied, and what is not replaced is copied bit by bit. A result
// that its dtype cannot hold is an error. The folder appears whole or not at all.
func Write(ctx context.Context, base *checkpoint.Checkpoint, dir string, replace map[string]Compute, o Options) error {
	if err := write(ctx, base, dir, replace, o); err != nil {
		return fmt.Errorf("exporting to %s: %w", dir, err)
	}
	return nil
}

func write(ctx context.Context, base *checkpoint.Checkpoint, dir string, replace map[string]Compute, o Options) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := vacant(dir); err != nil {
		return err
	}
	tensors, err := list(ctx, base, replace, o.Progress)
	if err != nil {
		return err
	}
	stage, err := artifact.Stage(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stage.Discard())
		}
	}()
	if err := copyFiles(ctx, base.Dir(), stage.Dir()); err != nil {
		return err
	}
	// transformers refuses weights that do not say which framework they are of.
	metadata := map[string]string{"format": "pt"}
	maps.Copy(metadata, o.Note)
	if err := checkpoint.WriteShards(stage.Dir(), tensors, metadata, cmp.Or(o.ShardBytes, DefaultShardBytes)); err != nil {
		return err
	}
	return stage.PublishNew(dir)
}

// vacant refuses a place where something is.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failure.Permanentf(contract.ReasonUsage, "it is there already and no folder: %w", err)
	}
	if len(entries) > 0 {
		return failure.Permanentf(contract.ReasonUsage, "the folder is there already, with %s in it: choose another, or empty it", entries[0].Name())
	}
	return nil
}

// list describes all tensors of the result, layer by layer, so that a shard has whole
// layers.
func list(ctx context.Context, base *checkpoint.Checkpoint, replace map[string]Compute, progress func(done, total int64)) ([]checkpoint.Stored, error) {
	for _, name := range slices.Sorted(maps.Keys(replace)) {
		if !base.Has(name) {
			return nil, failure.Permanentf(contract.ReasonInvalidModel, "%s has no tensor %q to replace", base.Dir(), name)
		}
	}
	all := make([]checkpoint.Stored, 0, len(base.Names()))
	total := int64(0)
	for _, name := range slices.SortedFunc(slices.Values(base.Names()), compareNames) {
		t, err := base.Stored(name)
		if err != nil {
			return nil, err
		}
		if compute := replace[name]; compute != nil {
			if tensor.DType(t.DType).Size() == 0 {
				return nil, failure.Permanentf(contract.ReasonUnsupported, "%q is stored as %s; F32, BF16 and F16 can be replaced", name, t.DType)
			}
			t.Write = replaced(ctx, t, compute)
		}
		total += t.Size
		all = append(all, t)
	}
	done := int64(0)
	for i, t := range all {
		write := t.Write
		all[i].Write = func(w io.Writer) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := write(w); err != nil {
				return err
			}
			if done += t.Size; progress != nil {
				progress(done, total)
			}
			return nil
		}
	}
	return all, nil
}

// replaced writes what is computed in place of a tensor.
func replaced(ctx context.Context, old checkpoint.Stored, compute Compute) func(w io.Writer) error {
	return func(w io.Writer) error {
		t, err := compute(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(t.Shape, old.Shape) {
			return fmt.Errorf("becomes %v, the base model has %v", t.Shape, old.Shape)
		}
		dtype := tensor.DType(old.DType)
		for i, x := range t.Data {
			if !holds(dtype, x) {
				return fmt.Errorf("element %d becomes %v, which %s cannot hold", i, x, dtype)
			}
		}
		return checkpoint.Entry{Name: old.Name, DType: dtype, Tensor: t}.Stored().Write(w)
	}
}

// holds reports whether a number stays finite when it is rounded.
func holds(dtype tensor.DType, x float32) bool {
	switch dtype {
	case tensor.BF16:
		x = tensor.BF16ToF32(tensor.F32ToBF16(x))
	case tensor.F16:
		x = tensor.F16ToF32(tensor.F32ToF16(x))
	}
	return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0)
}

// compareNames puts what belongs to no layer first, and layer 2 before layer 10.
func compareNames(a, b string) int {
	return cmp.Or(cmp.Compare(layerOf(a), layerOf(b)), strings.Compare(a, b))
}

func layerOf(name string) int {
	layer := -1
	if _, err := fmt.Sscanf(name, "model.layers.%d.", &layer); err != nil {
		return -1
	}
	return layer
}

// copyFiles copies what is no weights: the configuration, every tokenizer file and
// what else goes with a model.
func copyFiles(ctx context.Context, from, to string) error {
	names := slices.Concat([]string{checkpoint.ConfigFile}, contract.TokenizerFiles, checkpoint.OptionalFiles, companions)
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b, err := artifact.ReadBounded(filepath.Join(from, name), maxCompanion)
		if errors.Is(err, fs.ErrNotExist) && name != checkpoint.ConfigFile {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, artifact.FileMode)
		}
		if err != nil {
			return fmt.Errorf("copying: %w", err)
		}
	}
	return nil
}

// maxCompanion bounds a file that is no weights; vocabularies have up to 30 MB.
const maxCompanion = 256 << 20
