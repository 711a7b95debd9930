package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
		onAnswers, err := expert.OnAnswers(mixture)
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

// mixture reads the experts; weights default to an even share.
func (f *modelFlags) mixture() ([]expert.Weighted, error) {
	var mixture []expert.Weighted
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
		mixture = append(mixture, expert.Weighted{Adapter: v, Alpha: alpha})
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

func (f *modelFlags) compose(ctx context.Context, m *model.Model, mixture []expert.Weighted) (*model.Model, error) {
	d, mixed, err := f.mix(mixture)
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

// mix returns what the mixture does to each matrix, and the decomposition that it scales.
func (f *modelFlags) mix(mixture []expert.Weighted) (*expert.Decomposition, map[string]expert.Mixed, error) {
	dir, err := f.findDecomposition(mixture[0].Adapter.Manifest.DecompositionDigest)
	if err != nil {
		return nil, nil, err
	}
	d, err := expert.OpenDecomposition(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range mixture {
		if err := w.Adapter.Fits(d); err != nil {
			return nil, nil, err
		}
	}
	mixed, err := expert.Mix(mixture)
	return d, mixed, err
}

// findDecomposition returns the folder of a decomposition: the flag's, or, in
// a volume's layout, the one beside the model's or the expert's folder.
func (f *modelFlags) findDecomposition(digest string) (string, error) {
	if f.decomposition != "" {
		return f.decomposition, nil
	}
	var tried []string
	for _, artifactPath := range append([]string{f.model}, f.experts...) {
		path, err := filepath.Abs(artifactPath)
		if err != nil {
			return "", fmt.Errorf("looking for the decomposition: %w", err)
		}
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			path = filepath.Dir(path)
		}
		// DATA/models/sha256-… → DATA/decompositions/sha256-…
		dir, err := contract.ArtifactDir(filepath.Dir(filepath.Dir(path)), contract.DirDecompositions, digest)
		if err != nil {
			return "", err
		}
		if artifact.Complete(dir) {
			return dir, nil
		}
		tried = append(tried, dir)
	}
	return "", usagef("the expert scales decomposition %s, which is in none of %s: name its folder by --decomposition (t2 decompose makes it)",
		digest, strings.Join(tried, ", "))
}
