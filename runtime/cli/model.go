package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/tokenizer"
	"github.com/transformersquared/operator/runtime/train"
)

// modelFlags are the flags of subcommands that run a model, adapted or not.
type modelFlags struct {
	model         string
	decomposition string
	experts       []string
	transfer      bool
	digest        string // The model's, once it was asked for.
	compute       computeFlags
	dtype         backend.DType
	activations   string
	kv            string
}

// computeFlags are the flags that say what computes.
type computeFlags struct {
	backend          string
	threads          int
	cublas, cusolver backend.LibraryUse
}

func (f *computeFlags) register(flags *pflag.FlagSet) {
	f.registerBackend(flags)
	flags.TextVar(&f.cublas, "cublas", backend.LibraryUse(""),
		"on the backend cuda, let cuBLAS compute `WHAT`: never, training (gradients and composing), always (and products of many rows, whose bits then depend on the batch), "+
			"or auto (training, where the library is there); without it, what T2_CUBLAS says, and else never")
	flags.IntVar(&f.threads, "threads", 0, "threads to compute with; 0 means one a processor")
}

func (f *computeFlags) registerBackend(flags *pflag.FlagSet) {
	flags.StringVar(&f.backend, "backend", "",
		"compute with `NAME`: "+strings.Join(registry.Names(), " or ")+"; without it, with what a specification says, and else with "+registry.Names()[0])
}

// registerSolver is for subcommands that decompose.
func (f *computeFlags) registerSolver(flags *pflag.FlagSet) {
	flags.TextVar(&f.cusolver, "cusolver", backend.LibraryUse(""),
		"on the backend cuda, let cuSOLVER decompose `WHEN`: never, always, or auto (where the library is there); without it, what T2_CUSOLVER says, and else never")
}

// open opens the backend that the flag names or else a specification asks for.
func (f *computeFlags) open(asked string) (backend.Backend, error) {
	if f.threads < 0 {
		return nil, failure.Permanentf(contract.ReasonUsage, "--threads %d must not be negative", f.threads)
	}
	name := cmp.Or(f.backend, asked, registry.Names()[0])
	be, err := registry.Open(name, registry.Options{Threads: f.threads, CuBLAS: f.cublas, CuSOLVER: f.cusolver})
	if err != nil && strings.EqualFold(name, contract.BackendCPU) {
		// Of a processor too much was asked for, by T2_CPU.
		return nil, failure.Permanent(contract.ReasonUsage, err)
	}
	return be, err
}

// openAsked opens the backend that the flag names, for a person: a wrong name is wrong
// usage.
func (f *computeFlags) openAsked() (backend.Backend, error) {
	be, err := f.open("")
	if reason, _ := failure.Of(err); reason == contract.ReasonUsage {
		return nil, &UsageError{Err: err}
	}
	return be, err
}

func (f *modelFlags) register(flags *pflag.FlagSet) {
	f.registerMixture(flags)
	f.registerCompute(flags)
}

// registerMixture defines the flags that say which model and which experts.
func (f *modelFlags) registerMixture(flags *pflag.FlagSet) {
	flags.StringVar(&f.model, "model", "", "folder of the model, in Hugging Face layout (required)")
	flags.StringVar(&f.decomposition, "decomposition", "",
		"folder of the model's decomposition; without it, it is looked for beside the model and the expert")
	flags.StringArrayVar(&f.experts, "expert", nil,
		"folder or file of an expert, with :WEIGHT if you like; several are mixed, evenly unless weighted")
	f.registerTransfer(flags)
}

func (f *modelFlags) registerTransfer(flags *pflag.FlagSet) {
	flags.BoolVar(&f.transfer, "allow-transfer", false,
		"take experts of another base model, too, whose matrices have the same names and shapes as this model's; nothing says that what comes of it is of use")
}

// registerCompute defines the flags that say how to compute.
func (f *modelFlags) registerCompute(flags *pflag.FlagSet) {
	f.compute.register(flags)
	flags.TextVar(&f.dtype, "dtype", backend.F32,
		"keep the matrices as `TYPE`: f32, bf16 (half the memory) or int8 (27 % of it), which are read faster and round")
	flags.StringVar(&f.activations, "activations", "auto",
		"store activations as `TYPE`: f32, bf16 where the backend has it, or auto, which is bf16 there for matrices in bf16 or int8")
	flags.StringVar(&f.kv, "kv", "auto", "store the cache of keys and values as `TYPE`: f32 or bf16 likewise, or auto, which is what activations are; it may be bf16 beside activations in f32")
}

// loaded is a model that is ready to run.
type loaded struct {
	model     *model.Model
	tokenizer *tokenizer.Tokenizer
	backend   backend.Backend
	reader    *model.Model // Reads prompts where the experts act on answers alone.
}

// load opens the model and, if experts are named, composes their mixture. The
// caller closes the backend.
func (f *modelFlags) load(ctx context.Context) (_ *loaded, err error) {
	if f.model == "" {
		return nil, usagef("--model is missing: it is the folder with config.json and the weights")
	}
	mixture, err := f.mixture()
	if err != nil {
		return nil, err
	}
	be, err := f.compute.openAsked()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, be.Close())
		}
	}()
	storage, err := f.storage(be)
	if err != nil {
		return nil, err
	}
	m, t, err := train.LoadModel(ctx, be, f.model, model.WeightsAs(f.dtype), model.StoredAs(storage))
	if err != nil {
		return nil, err
	}
	l := &loaded{model: m, tokenizer: t, backend: be}
	if len(mixture) > 0 {
		onAnswers, err := expert.OnAnswers(weighted(mixture))
		if err != nil {
			return nil, &UsageError{Err: err}
		}
		if onAnswers {
			l.reader = m
		}
		if l.model, err = f.compose(ctx, m, mixture); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// storage is what the flags say of activations, and of keys and values, or what a server
// would do.
func (f *modelFlags) storage(be backend.Backend) (model.Storage, error) {
	s, err := model.ParseStorage(be, f.dtype, f.activations, f.kv)
	if err != nil {
		return s, usagef("--activations and --kv: %w", err)
	}
	return s, nil
}

// placed is an expert of a mixture, and where it was read.
type placed struct {
	expert.Weighted
	path string
}

func weighted(mixture []placed) []expert.Weighted {
	list := make([]expert.Weighted, len(mixture))
	for i, w := range mixture {
		list[i] = w.Weighted
	}
	return list
}

// mixture reads the experts; weights default to an even share.
func (f *modelFlags) mixture() ([]placed, error) {
	var mixture []placed
	for _, e := range f.experts {
		path, alpha := e, 1/float64(len(f.experts))
		if head, tail, ok := cutLast(e, ":"); ok {
			// A path may have a colon of its own.
			if weight, err := strconv.ParseFloat(tail, 64); err == nil {
				path, alpha = head, weight
			}
		}
		v, err := expert.Read(path)
		if err != nil {
			return nil, err
		}
		mixture = append(mixture, placed{expert.Weighted{Adapter: v, Alpha: alpha}, path})
	}
	return mixture, nil
}

func cutLast(s, separator string) (head, tail string, ok bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

func (f *modelFlags) compose(ctx context.Context, m *model.Model, mixture []placed) (*model.Model, error) {
	d, mixed, err := f.mix(ctx, mixture)
	if err != nil {
		return nil, err
	}
	for _, w := range mixture {
		if err := w.Adapter.FitsModel(m.Linears()); err != nil {
			return nil, err
		}
	}
	return expert.Compose(ctx, m, d, mixed)
}

// mix returns what the mixture does to each matrix, and the decomposition that it scales,
// which is the model's. Experts of another base become some of this one if that is allowed.
func (f *modelFlags) mix(ctx context.Context, mixture []placed) (*expert.Decomposition, map[string]expert.Mixed, error) {
	paths, foreign := make([]string, len(mixture)), make([]bool, len(mixture))
	var err error
	for i, w := range mixture {
		paths[i] = w.path
		if foreign[i], err = f.foreign(w.path, w.Adapter.Manifest); err != nil {
			return nil, nil, err
		}
	}
	dir, err := f.findDecomposition(mixture[0].Adapter.Manifest, paths)
	if err != nil {
		return nil, nil, err
	}
	d, err := expert.OpenDecompositionOf(dir, f.model)
	if err != nil {
		return nil, nil, err
	}
	for i := range mixture {
		w := &mixture[i]
		if foreign[i] {
			if w.Adapter, err = w.Adapter.Transfer(ctx, d, f.model, w.path); err != nil {
				return nil, nil, err
			}
		}
		if err := w.Adapter.Fits(d); err != nil {
			return nil, nil, err
		}
	}
	mixed, err := expert.Mix(weighted(mixture))
	return d, mixed, err
}

// findDecomposition returns the folder of the decomposition for an expert: the flag's, or,
// in a volume's layout, the one beside the model's or an expert's folder. One of another
// base that may be transferred is for the model's own.
func (f *modelFlags) findDecomposition(m contract.ExpertManifest, experts []string) (string, error) {
	if f.decomposition != "" {
		return f.decomposition, nil
	}
	digest, err := f.modelDigest()
	if err != nil {
		return "", err
	}
	if digest != m.BaseDigest {
		return f.ownDecomposition(digest)
	}
	var tried []string
	for _, path := range append([]string{f.model}, experts...) {
		dir, err := expert.DecompositionBeside(path, m.DecompositionDigest)
		if err != nil {
			return "", err
		}
		if artifact.Complete(dir) {
			return dir, nil
		}
		tried = append(tried, dir)
	}
	return "", usagef("the expert scales decomposition %s, which is in none of %s: name its folder by --decomposition (t2 decompose makes it)",
		m.DecompositionDigest, strings.Join(tried, ", "))
}

// modelDigest identifies the model; hashing a large one takes a while.
func (f *modelFlags) modelDigest() (string, error) {
	var err error
	if f.digest == "" {
		f.digest, err = expert.ModelDigest(f.model)
	}
	return f.digest, err
}

// foreign reports whether an expert was made for another base than the model, and is to be
// transferred; where that is not allowed it is refused.
func (f *modelFlags) foreign(path string, m contract.ExpertManifest) (bool, error) {
	digest, err := f.modelDigest()
	if err != nil || digest == m.BaseDigest {
		return false, err
	}
	if !f.transfer {
		return false, failure.Permanentf(contract.ReasonDecompositionMismatch,
			"expert %s was made for base model %s, and the model in %s is %s; train or import it for this one, "+expert.TransferHint,
			path, m.BaseDigest, f.model, digest)
	}
	return true, nil
}

// ownDecomposition returns the folder of the only decomposition of the model with this
// digest that the volume has in which the model is.
func (f *modelFlags) ownDecomposition(digest string) (string, error) {
	beside, err := expert.DecompositionBeside(f.model, digest)
	if err != nil {
		return "", err
	}
	parent := filepath.Dir(beside)
	folders, err := os.ReadDir(parent)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("looking for the model's decomposition: %w", err)
	}
	var found []string
	for _, folder := range folders {
		dir := filepath.Join(parent, folder.Name())
		if d, err := artifact.ReadManifest[contract.DecompositionManifest](dir); err == nil && d.BaseDigest == digest {
			found = append(found, dir)
		}
	}
	if len(found) != 1 {
		return "", usagef("%d decompositions of the model %s are in %s: an expert of another base is transferred to the model's own, so name its folder by --decomposition (t2 decompose makes it)",
			len(found), f.model, parent)
	}
	return found[0], nil
}
