// Package server is `t2 serve`: an OpenAI-compatible API over an engine, in
// which a policy's name as model means two passes, and an admin API by which
// the operator watches the pod and changes its experts while it serves.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/backend/registry"
	"github.com/transformersquared/operator/runtime/checkpoint"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/expert"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/model"
	"github.com/transformersquared/operator/runtime/server/requestlog"
	"github.com/transformersquared/operator/runtime/tokenizer"
)

// Config says what to serve, where and how.
type Config struct {
	// Name is the model name that means two passes.
	Name string
	// ModelDir is a folder in Hugging Face layout, DecompositionDir its
	// decomposition; without the latter there are no experts, only the base.
	ModelDir, DecompositionDir string
	// ExpertDir returns the folder or file of an expert.
	ExpertDir func(contract.ExpertRef) (string, error)
	// ProbeDir returns the folder of a probe.
	ProbeDir func(contract.ProbeRef) (string, error)
	// Set is the first expert set, of which everything must load. Without it, SetFile
	// is read until it holds a set or one has come by contract.PathExpertSet.
	Set     *contract.ExpertSet
	SetFile string
	// Lazy makes mixtures when the first request asks for them, and not before their
	// set is taken into use: where requests are explained, none may ever do.
	Lazy bool
	// ContextLength, MaxBatch, MaxWaiting and CacheTokens are the engine's; 0 means
	// its defaults.
	ContextLength, MaxBatch, MaxWaiting, CacheTokens int
	// CacheBytes is what the cache of keys and values may take, where CacheTokens are 0; 0
	// means what the plan of memory gives it.
	CacheBytes int64
	// Memory is what the process may have, in bytes; 0 means its container's limit, or three
	// quarters of what the machine has.
	Memory int64
	// Form is the one that mixtures of experts are computed in; empty means
	// engine.FormAuto.
	Form engine.Form
	// Backend is the name of what computes (see package registry), empty for its
	// default. Threads are those of the processor; 0 means as many as the process may
	// use.
	Backend string
	Threads int
	// CuBLAS says what that library computes on the backend cuda.
	CuBLAS backend.LibraryUse
	// DType is what the model's matrices are kept as: less memory, read faster,
	// for answers that differ by rounding.
	DType backend.DType
	// Activations and KV are what activations, and keys and values, are stored as: the
	// name of a type, or empty for what model.ServingStorage says.
	Activations, KV string
	// AdminToken is what changes of the expert set must present. Without it,
	// AdminTokenFile is read at each of them, so that the token can be exchanged;
	// without either, the set cannot be changed over HTTP.
	AdminToken, AdminTokenFile string
	// AdminCertFile and AdminKeyFile have the certificate and the key (PEM) that the admin
	// API is served with by HTTPS; they are read at each handshake, so that they can be
	// exchanged. Without them it is served by HTTP.
	AdminCertFile, AdminKeyFile string
	// MetricNames are those of the gauges for endpoint pickers; nil means
	// DefaultMetricNames. NoAPIMetrics takes contract.PathMetrics off the API's port.
	MetricNames  MetricNames
	NoAPIMetrics bool
	// Pod is what the process is called in contract.HeaderPod; empty means that it says
	// nothing of it.
	Pod string
	// KeepText has the text of requests and answers kept for contract.PathOutcomes, with
	// all else that is kept of them.
	KeepText bool
	// Tracer makes a span of each request, and of its passes; nil means that nothing is traced.
	Tracer trace.Tracer
	// APIAddress and AdminAddress are listened on.
	APIAddress, AdminAddress string
	// DrainDelay is how long new requests are still accepted after the process
	// was told to end, because the cluster takes a moment to send them elsewhere.
	// Grace bounds how long, all in all, requests in flight may take to finish;
	// 0 means DefaultGrace.
	DrainDelay, Grace time.Duration
	Log               *slog.Logger
}

// DefaultGrace is below Kubernetes' default terminationGracePeriodSeconds, 30.
const DefaultGrace = 25 * time.Second

// FromSpec returns the configuration of a pod: artifacts where the contract
// says that they are.
func FromSpec(spec contract.ServeSpec) (Config, error) {
	var c Config
	if spec.Name == "" || spec.DataDir == "" {
		return c, failure.Permanentf(contract.ReasonUsage, "the specification has no name or no dataDir")
	}
	var err error
	if c.ModelDir, err = contract.ArtifactDir(spec.DataDir, contract.DirModels, spec.BaseDigest); err != nil {
		return c, failure.Permanent(contract.ReasonUsage, fmt.Errorf("baseDigest: %w", err))
	}
	if c.DecompositionDir, err = contract.ArtifactDir(spec.DataDir, contract.DirDecompositions, spec.DecompositionDigest); err != nil {
		return c, failure.Permanent(contract.ReasonUsage, fmt.Errorf("decompositionDigest: %w", err))
	}
	c.ExpertDir = func(ref contract.ExpertRef) (string, error) {
		root, err := contract.VolumeOf(spec.DataDir, spec.TransferDir, ref.TransferFrom)
		if err != nil {
			return "", failure.Permanent(contract.ReasonUsage, err)
		}
		return contract.ArtifactDir(root, contract.DirExperts, ref.Digest)
	}
	c.ProbeDir = func(ref contract.ProbeRef) (string, error) {
		dir, err := contract.ArtifactDir(spec.DataDir, contract.DirProbes, ref.Digest)
		return dir, failure.Permanent(contract.ReasonUsage, err)
	}
	if c.DType, err = backend.ParseDType(spec.DType); err != nil {
		return c, failure.Permanent(contract.ReasonUsage, fmt.Errorf("dtype: %w", err))
	}
	if c.Form, err = engine.ParseForm(spec.Form); err != nil {
		return c, failure.Permanent(contract.ReasonUsage, err)
	}
	if spec.MaxWaiting < 0 || spec.KVCacheBytes < 0 {
		return c, failure.Permanentf(contract.ReasonUsage, "maxWaiting %d and kvCacheBytes %d must not be negative", spec.MaxWaiting, spec.KVCacheBytes)
	}
	c.Name, c.ContextLength, c.MaxBatch = spec.Name, spec.ContextLength, spec.MaxBatch
	c.MaxWaiting, c.CacheBytes, c.KV = spec.MaxWaiting, spec.KVCacheBytes, spec.KVCacheType
	if c.MetricNames, err = MetricNames(spec.MetricNames).orDefault(); err != nil {
		return c, failure.Permanent(contract.ReasonUsage, fmt.Errorf("metricNames: %w", err))
	}
	c.NoAPIMetrics, c.KeepText = spec.NoAPIMetrics, spec.KeepText
	if spec.DrainSeconds < 0 {
		return c, failure.Permanentf(contract.ReasonUsage, "drainSeconds %d must not be negative", spec.DrainSeconds)
	}
	c.Grace = time.Duration(spec.DrainSeconds) * time.Second
	c.Backend = cmp.Or(spec.Backend, contract.BackendCPU)
	c.SetFile = filepath.Join(contract.MountExperts, contract.ExpertSetKey)
	c.AdminTokenFile = filepath.Join(contract.MountAdmin, contract.AdminTokenKey)
	if spec.AdminTLS {
		c.AdminCertFile = filepath.Join(contract.MountAdmin, contract.AdminCertKey)
		c.AdminKeyFile = filepath.Join(contract.MountAdmin, contract.AdminPrivateKey)
	}
	return c, nil
}

// core is what exists once the model is loaded. It never changes.
type core struct {
	engine  *engine.Engine
	files   string // The folder of the model's files.
	tok     *tokenizer.Tokenizer
	dec     *expert.Decomposition // nil without one.
	linears []model.LinearInfo
	width   int // Of a state.
	backend backend.Backend
	// structures compile what answers have to look like.
	structures structures
	// calls is how the model calls tools.
	calls calling
}

// Server serves one policy. New makes it, Load loads the model, API and Admin
// are its two faces, and Run does all of that on real listeners.
type Server struct {
	config  Config
	log     *slog.Logger
	metrics *metrics
	created int64

	core     atomic.Pointer[core]
	set      atomic.Pointer[servedSet]
	division atomic.Pointer[division] // nil while there is no candidate.
	watching chan sighting            // What a candidate is to choose for, too.
	draining atomic.Bool

	// life ends when the server closes. Sets are loaded for as long as it lasts,
	// not for as long as the request that offered them.
	life    context.Context //nolint:containedctx // See above.
	end     context.CancelFunc
	loader  *loader
	loading sync.WaitGroup // The goroutines of the loader and of watch.
	reading chan struct{}  // One place: an expert is being read.

	requests  atomic.Int64
	fallbacks atomic.Int64
	kept      *requestlog.Log
	base      requestlog.Tally // Of the base weights' answers.
	turnstile turnstile
	bodies    bodies
	planned   atomic.Pointer[engine.Plan] // nil until the model is being loaded.

	mu       sync.Mutex
	unlimit  func() // Undoes what the plan says to Go's collector; nil where it says nothing.
	lastSeen *contract.Adaptation
	lastTime time.Time // When lastSeen was chosen.
}

// New returns a server that answers health checks and nothing else yet.
func New(config Config) *Server {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Grace == 0 {
		config.Grace = DefaultGrace
	}
	s := &Server{
		config: config, log: config.Log, created: time.Now().Unix(), reading: make(chan struct{}, 1), watching: make(chan sighting, mostSightings),
	}
	s.life, s.end = context.WithCancel(context.Background())
	limits := requestlog.Default
	if config.KeepText {
		limits = requestlog.WithText
	}
	s.kept = requestlog.New(limits, time.Now)
	s.metrics = newMetrics(s)
	s.loader = newLoader(s.life, s.log, s.metrics)
	s.loader.load, s.loader.use = s.load, s.use
	s.loader.loadBeside, s.loader.divide, s.loader.promote = s.loadBeside, s.divide, s.promote
	return s
}

// Load loads the model and starts the engine, and the loading of expert sets. It
// is called once.
func (s *Server) Load(ctx context.Context) (err error) {
	if err := s.config.MetricNames.check(); err != nil {
		return failure.Permanent(contract.ReasonUsage, fmt.Errorf("names of metrics: %w", err))
	}
	begun := time.Now()
	c := &core{}
	defer func() {
		if err != nil && c.backend != nil {
			err = errors.Join(err, c.backend.Close())
		}
		if err != nil {
			s.unlimitHeap()
		}
	}()
	if c.files, err = checkpoint.Locate(ctx, s.config.ModelDir); err != nil {
		return err
	}
	ck, err := checkpoint.OpenDir(c.files)
	if err != nil {
		return fmt.Errorf("opening the model: %w", err)
	}
	defer func() { err = errors.Join(err, ck.Close()) }()
	if c.tok, err = tokenizer.Load(c.files); err != nil {
		return err
	}
	if err := c.tok.FitsVocabulary(ck.Config().VocabSize); err != nil {
		return failure.Content(contract.ReasonInvalidModel, fmt.Errorf("model %s: %w", s.config.ModelDir, err))
	}
	if c.dec, err = openDecomposition(s.config); err != nil {
		return err
	}
	if c.backend, err = registry.Open(s.config.Backend, registry.Options{Threads: s.config.Threads, CuBLAS: s.config.CuBLAS}); err != nil {
		return err
	}
	backend.LogFacts(s.log, c.backend)
	storage, err := model.ParseStorage(c.backend, s.config.DType, s.config.Activations, s.config.KV)
	if err != nil {
		return failure.Permanent(contract.ReasonUsage, err)
	}
	plan, err := s.plan(c, ck.Config(), storage)
	if err != nil {
		return err
	}
	s.limitHeap(plan.LoadingHeap())
	base, err := model.Load(ctx, c.backend, ck, model.WeightsAs(s.config.DType), model.StoredAs(storage))
	if err != nil {
		return fmt.Errorf("loading model %s: %w", s.config.ModelDir, err)
	}
	c.linears, c.width = base.Linears(), base.Config().HiddenSize
	c.calls = newCalling(c.tok)
	c.structures = newStructures(c.tok, ck.Config().VocabSize, c.calls)
	o := engine.Options{
		Base: base, Text: func() engine.TextStream { return c.tok.NewStream() }, StopTokens: c.tok.EOS(),
		ContextLength: s.config.ContextLength, MaxBatch: s.config.MaxBatch, MaxWaiting: s.config.MaxWaiting,
		CacheTokens: plan.CacheTokens, ExpertBytes: plan.Experts, Form: s.config.Form,
	}
	if c.dec != nil {
		o.Compose, o.Factors = engine.Composer(base, c.dec), engine.NewFactors(c.dec)
	}
	if c.engine, err = engine.New(ctx, o); err != nil {
		return failure.Permanent(contract.ReasonUsage, err)
	}
	s.take(plan)
	s.core.Store(c)
	s.log.Info("Loaded model", "policy", s.config.Name, "family", ck.Config().Family,
		"parameters", ck.Architecture().Parameters, "backend", c.backend.Name(), "dtype", s.config.DType, "storage", storage.String(),
		"contextLength", c.engine.ContextLength(), "cacheTokens", c.engine.CacheTokens(), "seconds", time.Since(begun).Seconds())
	s.loading.Go(func() { s.loader.run(s.life) })
	s.loading.Go(func() { s.watch(s.life) })
	return nil
}

// openDecomposition opens the decomposition and checks that it is of this
// model.
func openDecomposition(c Config) (*expert.Decomposition, error) {
	if c.DecompositionDir == "" {
		return nil, nil //nolint:nilnil // No decomposition is a way to serve.
	}
	return expert.OpenDecompositionOf(c.DecompositionDir, c.ModelDir)
}

// Close ends the engine; requests in flight fail.
func (s *Server) Close() error {
	s.end()
	s.loading.Wait() // It uses the engine, and ends with s.life.
	defer s.unlimitHeap()
	c := s.core.Swap(nil)
	if c == nil {
		return nil
	}
	c.engine.Close()
	return c.backend.Close()
}
