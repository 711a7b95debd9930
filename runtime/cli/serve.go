package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/failure"
	"github.com/transformersquared/operator/runtime/host"
	"github.com/transformersquared/operator/runtime/jobs"
	"github.com/transformersquared/operator/runtime/server"
	"github.com/transformersquared/operator/runtime/tracing"
)

// podDrainDelay is how long a pod that is told to end still takes new
// requests: endpoints and proxies need about that long to forget it.
const podDrainDelay = 3 * time.Second

// lastSpans is how long the last spans of a process may take to be sent.
const lastSpans = 2 * time.Second

type serveFlags struct {
	setFlags
	spec, setFile     string
	api, admin        string
	form              string
	batch             int
	queue, cache      int
	cacheBytes        host.Size
	memory            host.Size
	metricNames       []string
	apiMetrics        bool
	keepText          bool
	grace, drainDelay time.Duration
}

// newServeCommand returns `t2 serve`.
func newServeCommand(env *Env) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer an OpenAI-compatible API, adapting to each request",
		Long: `Serve answers /v1/chat/completions, /v1/responses, /v1/completions and
/v1/models. As model, NAME means two passes: the first chooses the experts, the
second answers. NAME:EXPERT pins one expert and NAME:base the base weights. What
was chosen, and the time of each pass, is in the field "t2" of each answer. What
would be chosen, and why, is what /v1/adaptation:explain answers to the same
bodies.

A second port has /healthz, /readyz, /metrics and /experts; a PUT of an expert
set there, with the bearer token in T2_ADMIN_TOKEN, is answered at once and
exchanges the experts without losing a request. GET /experts says how far that is
and what could not be loaded.

Each answer has an id (header X-Request-Id), and for an hour or some thousands of
answers GET /v1/adaptation/requests/ID says how it came about, without its text. A
POST of {"request": ID, "right": true} to /v1/adaptation:outcome marks it, which is
counted by expert; GET /outcomes on the second port lists what was marked.

Experts are computed in one of two forms. Merged, each mixture has dense weights
and a batch of its own: fastest for one mixture at a time. Unmerged, all share U
and Vᵀ, which must fit into memory beside the base, and one batch, in which each
sequence has its own z: fastest for several at a time. With --form auto the set
of experts decides, never what happens to run. The forms differ in rounding; the
other two keep the answer to a seed the same from set to set.

Memory is planned before anything is loaded: weights, the largest step, the cache of
keys and values, what experts are computed with, and requests' bodies each have a part
of the container's limit, or of what --memory says, and what does not fit is refused
with the numbers. t2 doctor prints the plan, /metrics what is in use of it.

With OTEL_EXPORTER_OTLP_ENDPOINT, and OpenTelemetry's other variables, each request is a
trace of its time in the queue and of its passes, sent by OTLP over HTTP.

At SIGTERM or ctrl-C requests in flight are finished; those that take longer than
--grace end with the error shutting_down. With --json the counters are printed as
JSON at the end.`,
		Example: `  t2 serve --model ./model --decomposition ./data/decompositions/sha256-… \
    --expert math=./data/experts/sha256-… --describe "math=word problems and arithmetic"
  curl localhost:8000/v1/chat/completions -d '{"model":"demo","messages":[{"role":"user","content":"2+3?"}]}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if jobs.HasSpec(f.spec, env.Getenv) {
				if err := refuseBeside(cmd, "model", "decomposition", "name", "expert", "describe", "strategy", "classifier", "probe", "fallback",
					"prompt-template", "request-tokens", "min-probability", "top-k", "context", "allow-transfer", "max-batch"); err != nil {
					return err
				}
			}
			return f.run(cmd.Context(), env)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.spec, "spec", "", "read the specification (JSON) from `FILE`")
	flags.StringVar(&f.setFile, "experts", "", "read the expert set (JSON) from `FILE`, by default where a pod has it mounted; for use with a specification")
	f.registerSet(flags)
	flags.StringVar(&f.name, "name", defaultName, "model `NAME` that means two passes")
	flags.StringArrayVar(&f.experts, "expert", nil, "offer an expert, `NAME=DIR` with its folder or file, or NAME=DIR:WEIGHT for the strategy Fixed; may be repeated")
	flags.StringVar(&f.form, "form", string(engine.FormAuto), "`FORM` in which experts are computed: merged, unmerged, or auto by the set of experts; see above")
	flags.StringVar(&f.api, "listen", net.JoinHostPort("", strconv.Itoa(contract.PortAPI)), "`ADDRESS` of the API")
	flags.StringVar(&f.admin, "admin", net.JoinHostPort("", strconv.Itoa(contract.PortAdmin)), "`ADDRESS` of health, metrics and experts")
	flags.IntVar(&f.batch, "max-batch", 0, "requests that are computed together; 0 means 16")
	flags.IntVar(&f.queue, "max-waiting", 0, "choices of requests that may wait for a slot, the next gets status 429; 0 means 256")
	flags.IntVar(&f.cache, "cache-tokens", 0, "tokens that prompts and answers may have in the key-value cache, all together; a request waits until its prompt fits in, and the youngest begins again when answers fill it; 0 means what --kv-cache says, or room for a full batch, as far as memory allows: up to half of what the model leaves of a container's limit, or 2 GiB without one")
	flags.Var(&f.cacheBytes, "kv-cache", "what that cache may take, a `SIZE` such as 4Gi, where --cache-tokens does not say it")
	registerMemory(flags, &f.memory)
	flags.BoolVar(&f.apiMetrics, "api-metrics", true, "serve /metrics on the API's port, too, where the endpoint picker of an InferencePool reads it; =false leaves it to the other port")
	flags.StringArrayVar(&f.metricNames, "metric-name", nil, "call a gauge for endpoint pickers `WHAT=NAME` instead of what vLLM calls it: queued, running, cache, blocks or experts; without NAME there is none; may be repeated")
	flags.BoolVar(&f.keepText, "keep-text", false, "keep the text of requests and answers for a while, which makes data sets of the answers that clients mark (/outcomes on the other port)")
	flags.DurationVar(&f.grace, "grace", server.DefaultGrace, "how long requests in flight may take after SIGTERM, where a specification does not say it")
	flags.DurationVar(&f.drainDelay, "drain-delay", 0, "how long new requests are taken after SIGTERM; in a pod 3s")
	return cmd
}

func (f *serveFlags) run(ctx context.Context, env *Env) error {
	managed := jobs.Managed(f.spec, env.Getenv)
	config, err := f.config(env)
	if err == nil {
		err = serve(ctx, config, env)
	}
	if reason, _ := failure.Of(err); err != nil && reason == contract.ReasonUsage && !managed {
		return &UsageError{Err: err}
	}
	if err != nil && managed {
		// The operator reads why a pod does not start where it reads it of Jobs.
		return errors.Join(err, leaveTermination(err, env.Getenv))
	}
	return err
}

// serve serves until ctx is done.
func serve(ctx context.Context, config server.Config, env *Env) error {
	traces, err := tracing.New(env.Getenv, config.Log)
	if err != nil {
		return failure.Permanent(contract.ReasonUsage, err)
	}
	if traces != nil {
		config.Tracer = traces.Tracer("github.com/transformersquared/operator/runtime/server")
	}
	s := server.New(config)
	err = s.Run(ctx)
	if traces != nil {
		// The last spans are worth a moment, and no more: a pod is soon killed.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSpans)
		defer cancel()
		if lost := traces.Shutdown(ending); lost != nil {
			config.Log.Warn("Could not send the last spans", "error", lost)
		}
	}
	if err == nil && env.JSON {
		return env.PrintJSON(s.Status())
	}
	return err
}

// config makes the server's configuration of a specification or of flags.
func (f *serveFlags) config(env *Env) (server.Config, error) {
	var c server.Config
	if f.cache < 0 || f.compute.threads < 0 {
		return c, usagef("--cache-tokens %d and --threads %d must not be negative", f.cache, f.compute.threads)
	}
	form, err := engine.ParseForm(f.form)
	if err != nil {
		return c, usagef("--form: %w", err)
	}
	if jobs.HasSpec(f.spec, env.Getenv) {
		var spec contract.ServeSpec
		if spec, err = jobs.LoadSpec[contract.ServeSpec](f.spec, env.Getenv); err != nil {
			return c, err
		}
		if c, err = server.FromSpec(spec); err != nil {
			return c, err
		}
		if f.setFile != "" {
			c.SetFile = f.setFile
		}
		c.DrainDelay = podDrainDelay
		if c.Pod, err = os.Hostname(); err != nil { // Which is the pod's name.
			return c, fmt.Errorf("finding the pod's name: %w", err)
		}
	} else if c, err = f.fromFlags(); err != nil {
		return c, err
	}
	if f.drainDelay > 0 {
		c.DrainDelay = f.drainDelay
	}
	// A specification says how to compute, too; a flag says it for this process.
	if f.dtype != backend.F32 {
		c.DType = f.dtype
	}
	c.Activations = f.activations
	if f.kv != "auto" {
		c.KV = f.kv
	}
	if form != engine.FormAuto {
		c.Form = form
	}
	c.Backend, c.Threads, c.CuBLAS = cmp.Or(f.compute.backend, c.Backend), f.compute.threads, f.compute.cublas
	c.MaxWaiting, c.CacheBytes = cmp.Or(f.queue, c.MaxWaiting), cmp.Or(int64(f.cacheBytes), c.CacheBytes)
	if c.Grace == 0 || f.grace != server.DefaultGrace {
		c.Grace = f.grace
	}
	c.CacheTokens, c.Memory = f.cache, int64(f.memory)
	c.APIAddress, c.AdminAddress = f.api, f.admin
	c.NoAPIMetrics = c.NoAPIMetrics || !f.apiMetrics
	if len(f.metricNames) > 0 {
		if c.MetricNames, err = server.ParseMetricNames(f.metricNames); err != nil {
			return c, usagef("--metric-name: %w", err)
		}
	}
	c.KeepText = c.KeepText || f.keepText
	c.AdminToken = env.Getenv(contract.EnvAdminToken)
	c.Log = serveLogger(env.Stderr)
	return c, nil
}

// fromFlags describes what a person at a terminal asks for.
func (f *serveFlags) fromFlags() (server.Config, error) {
	if f.setFile != "" && f.model != "" {
		return server.Config{}, usagef("--experts goes with a specification (--spec or %s); name experts by --expert", contract.EnvSpec)
	}
	c, err := f.server()
	c.MaxBatch = f.batch
	return c, err
}

// serveLogger writes a line a request: for machines, or legible at a terminal.
func serveLogger(w io.Writer) *slog.Logger {
	if jobs.IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}

// leaveTermination writes why the server could not start or go on to the
// termination log.
func leaveTermination(err error, getenv func(string) string) error {
	reason, permanent := failure.Of(err)
	return jobs.WriteTermination(contract.Termination{Reason: reason, Permanent: permanent, Message: err.Error()}, getenv)
}
