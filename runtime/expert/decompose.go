package expert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/tensor"
)

// factorFormat is the version of factor files; it enters the key of the work
// folder, so that a newer program does not continue an older one's work.
const factorFormat = "t2-factors/2"

// Keys of a factor file's metadata, besides format.
const (
	metaFormat        = "format"
	metaMatrix        = "matrix"
	metaRelativeError = "relativeError"
)

// Names of the tensors of a factor file.
const (
	tensorU  = "U"
	tensorS  = "S"
	tensorVt = "Vt"
)

// maxError is the largest relative reconstruction error that is believable.
// BF16 factors have about 3e-3; more means that something is wrong.
const maxError = 2e-2

// Decompose factors the chosen modules of a model and publishes the result
// under root/contract.DirDecompositions. spec.BaseDigest must be the model's
// digest; spec.DataDir is not read.
//
// A finished decomposition of the same model, modules and dtype is verified and
// returned. Otherwise each matrix is written as soon as it is factored, to a
// work folder that outlives the process, so that a decomposition that was
// interrupted goes on where it stopped. on is the device that factors; nil means
// the processor. They agree within rounding, and one may go on where another
// stopped, but a digest is that of the factors that were made. progress (may be
// nil) is called with the number of finished matrices, never concurrently.
func Decompose(ctx context.Context, ck *checkpoint.Checkpoint, root string, spec contract.DecomposeSpec, on backend.Decomposer, progress func(done, total int),
) (contract.DecompositionManifest, error) {
	job, err := newDecomposition(ck, root, spec, on)
	if err != nil {
		return contract.DecompositionManifest{}, err
	}
	if m, ok, err := job.published(); ok || err != nil {
		return m, err
	}
	stage, err := artifact.StageAt(job.parent, ".work-"+job.key())
	if err != nil {
		return contract.DecompositionManifest{}, fmt.Errorf("decomposing: %w", err)
	}
	m, err := job.run(ctx, stage, progress)
	return m, errors.Join(err, stage.Release())
}

type decomposition struct {
	ck      *checkpoint.Checkpoint
	parent  string // the folder of all decompositions
	base    string // digest of the model
	modules []string
	dtype   tensor.DType
	names   []string
	factory factory
}

func newDecomposition(ck *checkpoint.Checkpoint, root string, spec contract.DecomposeSpec, on backend.Decomposer) (*decomposition, error) {
	if !contract.ValidDigest(spec.BaseDigest) {
		return nil, failure.Permanentf(contract.ReasonUsage, "model digest %q is no digest", spec.BaseDigest)
	}
	modules, err := canonicalModules(spec.Modules)
	if err != nil {
		return nil, err
	}
	dtype := tensor.DType(spec.DType)
	if dtype != tensor.F32 && dtype != tensor.BF16 {
		return nil, failure.Permanentf(contract.ReasonUsage, "factors are stored as F32 or BF16, not as %q", spec.DType)
	}
	j := &decomposition{
		ck: ck, parent: filepath.Join(root, contract.DirDecompositions), base: spec.BaseDigest,
		modules: modules, dtype: dtype, names: matrixNames(ck.Config(), modules),
	}
	if on == nil {
		j.factory = processor{threads: runtime.GOMAXPROCS(0), matrices: len(j.names)}
	} else {
		j.factory = newDevice(on)
	}
	return j, j.check()
}

// check refuses a model whose matrices are missing or misshaped before any
// work is done, and names all of them.
func (j *decomposition) check() error {
	var problems []string
	for _, name := range j.names {
		out, in := matrixShape(j.ck.Config(), ModuleOf(name))
		switch info, ok := j.ck.Info(name + ".weight"); {
		case !ok:
			problems = append(problems, name+".weight is missing")
		case !slices.Equal(info.Shape, []int{out, in}):
			problems = append(problems, fmt.Sprintf("%s.weight has shape %v, config.json implies %v", name, info.Shape, []int{out, in}))
		}
	}
	if len(problems) > 0 {
		return failure.Permanentf(contract.ReasonInvalidModel, "model %s: %s", j.ck.Dir(), strings.Join(problems, "; "))
	}
	return nil
}

// key names the work folder: all that decides the result, but not the result.
func (j *decomposition) key() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s\n%s\n%s\n", factorFormat, j.base, strings.Join(j.modules, ","), j.dtype) // A hash takes everything.
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// asks reports whether a decomposition is the one that is asked for.
func (j *decomposition) asks(m contract.DecompositionManifest) bool {
	return m.BaseDigest == j.base && m.DType == string(j.dtype) && slices.Equal(m.Modules, j.modules)
}

// published looks for a finished decomposition of the same input and verifies
// it. A damaged one is removed, to be made again.
func (j *decomposition) published() (contract.DecompositionManifest, bool, error) {
	entries, err := os.ReadDir(j.parent)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return contract.DecompositionManifest{}, false, fmt.Errorf("looking for decompositions: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "sha256-") {
			continue
		}
		dir := filepath.Join(j.parent, e.Name())
		if m, err := artifact.ReadManifest[contract.DecompositionManifest](dir); err == nil && j.asks(m) {
			artifact.Touch(dir)
		}
		m, err := artifact.ReadManifest[contract.DecompositionManifest](dir)
		if err != nil || !j.asks(m) {
			continue
		}
		if err = checkManifest(dir, m); err == nil {
			err = artifact.Verify(dir, m.Files)
		}
		switch {
		case err == nil:
			return m, true, nil
		case failure.System(err) && !errors.Is(err, fs.ErrNotExist): // Who knows what it has.
			return m, false, err
		}
		if err := os.RemoveAll(dir); err != nil {
			return m, false, fmt.Errorf("removing damaged decomposition: %w", err)
		}
	}
	return contract.DecompositionManifest{}, false, nil
}

func (j *decomposition) run(ctx context.Context, stage *artifact.Staging, progress func(done, total int)) (contract.DecompositionManifest, error) {
	m := contract.DecompositionManifest{
		BaseDigest: j.base, Modules: j.modules, DType: string(j.dtype), Matrices: len(j.names),
	}
	if err := j.factorAll(ctx, stage.Dir(), &m, progress); err != nil {
		return m, err
	}
	if m.MaxRelativeError > maxError {
		return m, fmt.Errorf("relative reconstruction error %.2g is more than %.2g: the factors cannot be trusted", m.MaxRelativeError, maxError)
	}
	files := make([]string, len(j.names))
	for i, name := range j.names {
		files[i] = factorFile(name)
	}
	var err error
	if m.Files, err = artifact.HashFiles(stage.Dir(), files); err != nil {
		return m, fmt.Errorf("hashing factors: %w", err)
	}
	m.Digest = decompositionDigest(m)
	return m, stage.PublishDigest(m.Digest, m)
}

// factorAll makes the factor file of every matrix that has none yet.
func (j *decomposition) factorAll(ctx context.Context, dir string, m *contract.DecompositionManifest, progress func(done, total int)) error {
	var mu sync.Mutex
	done := 0
	finish := func(rank int, relativeError float64) {
		mu.Lock()
		defer mu.Unlock()
		done++
		m.SingularValues += rank
		m.MaxRelativeError = max(m.MaxRelativeError, relativeError)
		if progress != nil {
			progress(done, len(j.names))
		}
	}
	free := semaphore.NewWeighted(int64(j.factory.capacity()))
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range j.names {
		workers := j.factory.share(matrixShape(j.ck.Config(), ModuleOf(name)))
		if free.Acquire(ctx, int64(workers)) != nil {
			group.Go(func() error { return fmt.Errorf("decomposing: %w", context.Cause(ctx)) })
			break
		}
		group.Go(func() error {
			defer free.Release(int64(workers))
			if ctx.Err() != nil {
				return fmt.Errorf("decomposing: %w", context.Cause(ctx))
			}
			rank, relativeError, err := j.factorOne(ctx, dir, name, workers)
			if err != nil {
				return fmt.Errorf("decomposing %s: %w", name, err)
			}
			finish(rank, relativeError)
			return nil
		})
	}
	return group.Wait()
}

// factorOne makes the factor file of one matrix, unless it is there already.
func (j *decomposition) factorOne(ctx context.Context, dir, name string, workers int) (rank int, relativeError float64, err error) {
	path := filepath.Join(dir, factorFile(name))
	if rank, relativeError, ok := j.finished(path, name); ok {
		return rank, relativeError, nil
	}
	w, err := j.ck.Tensor(name + ".weight")
	if err != nil {
		return 0, 0, err
	}
	f, err := j.factory.factorise(ctx, w, j.dtype, workers)
	if err != nil {
		return 0, 0, err
	}
	err = checkpoint.WriteEntries(path, []checkpoint.Entry{
		{Name: tensorU, DType: j.dtype, Tensor: f.u},
		{Name: tensorS, DType: tensor.F32, Tensor: f.s},
		{Name: tensorVt, DType: j.dtype, Tensor: f.vt},
	}, map[string]string{
		metaFormat: factorFormat, metaMatrix: name,
		metaRelativeError: strconv.FormatFloat(f.relativeError, 'g', -1, 64),
	})
	return len(f.s.Data), f.relativeError, err
}

// finished reports whether path holds the factors of a matrix already. Files
// appear whole, so one that opens is complete; anything else is made again.
func (j *decomposition) finished(path, name string) (rank int, relativeError float64, ok bool) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return 0, 0, false
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	out, in := matrixShape(j.ck.Config(), ModuleOf(name))
	if err := checkFactorFile(f, name, out, in); err != nil {
		return 0, 0, false
	}
	relativeError, err = strconv.ParseFloat(f.Metadata()[metaRelativeError], 64)
	if err != nil || math.IsNaN(relativeError) || relativeError < 0 {
		return 0, 0, false
	}
	return min(out, in), relativeError, true
}

// factorFile names the file of a matrix' factors within a decomposition.
func factorFile(matrix string) string { return matrix + ".safetensors" }

// decompositionDigest is the digest of what a decomposition is of and of its
// files.
func decompositionDigest(m contract.DecompositionManifest) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\nbase %s\nmodules %s\ndtype %s\nfiles %s\n", factorFormat, m.BaseDigest,
		strings.Join(m.Modules, ","), m.DType, contract.DigestFiles(m.Files))
	return contract.DigestPrefix + hex.EncodeToString(h.Sum(nil))
}
