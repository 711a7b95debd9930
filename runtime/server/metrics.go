package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// metrics are the server's numbers. Labels have few values: names of experts come
// and go, so that only those of the set in use are there, by setCollector.
type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	passes     *prometheus.HistogramVec
	firstToken prometheus.Histogram
	choices    *prometheus.CounterVec
	offers     *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	// From a tiny model's milliseconds to a large one's minutes.
	buckets := prometheus.ExponentialBuckets(0.001, 2, 18)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "t2_requests_total", Help: "Requests by endpoint and HTTP status (499: the client did not wait).",
		}, []string{"endpoint", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "t2_request_duration_seconds", Help: "Time from a request's arrival to its end.", Buckets: buckets,
		}, []string{"endpoint"}),
		passes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "t2_pass_duration_seconds", Help: "Time of each pass of answered requests, waiting included.", Buckets: buckets,
		}, []string{"pass", "strategy"}),
		firstToken: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "t2_first_token_seconds", Help: "Time from the start of pass 2 to its first token.", Buckets: buckets,
		}),
		choices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "t2_adaptations_total", Help: "Answered requests by strategy and by what answered: expert, mixture or base.",
		}, []string{"strategy", "choice"}),
		offers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "t2_expert_set_offers_total",
			Help: "Expert sets offered to this pod, by result: taken, partly (an expert is missing), refused (the set in use stays) or superseded.",
		}, []string{"result"}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.requests, m.seconds, m.passes, m.firstToken, m.choices, m.offers,
		&engineCollector{server: s}, &setCollector{server: s}, &sidesCollector{server: s}, newPoolCollector(s, s.config.MetricNames))
	return m
}

// maxScrapes bounds how many clients are shown the metrics at once: on the API's port
// anybody may ask, and each costs some work.
const maxScrapes = 8

// handler is contract.PathMetrics.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

func (m *metrics) request(endpoint string, status int, took time.Duration) {
	m.requests.WithLabelValues(endpoint, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(endpoint).Observe(took.Seconds())
}

// answered counts an answer; pass1 is 0 where there was no pass 1.
func (m *metrics) answered(out outcome, pass1 time.Duration) {
	a := out.adaptation
	if pass1 > 0 {
		m.passes.WithLabelValues("1", a.Strategy).Observe(pass1.Seconds())
	}
	m.passes.WithLabelValues("2", a.Strategy).Observe(a.Pass2Seconds)
	m.firstToken.Observe(out.result.FirstToken.Seconds())
	choice := "expert"
	switch len(a.Weights) {
	case 0:
		choice = "base"
	case 1:
	default:
		choice = "mixture"
	}
	m.choices.WithLabelValues(a.Strategy, choice).Inc()
}

// Results of an offered expert set.
const (
	resultTaken      = "taken"
	resultPartly     = "partly"
	resultRefused    = "refused"
	resultSuperseded = "superseded"
)

func (m *metrics) offered(result string) { m.offers.WithLabelValues(result).Inc() }

// engineCollector reads the engine's own numbers when they are asked for.
type engineCollector struct{ server *Server }

var (
	descWaiting   = prometheus.NewDesc("t2_waiting_requests", "Requests that wait for a place in the batch, or in pass 1.", nil, nil)
	descRunning   = prometheus.NewDesc("t2_running_requests", "Requests that are computed.", nil, nil)
	descChoosing  = prometheus.NewDesc("t2_choosing_requests", "Requests that are computed (t2_running_requests) and in pass 1, beside the batch.", nil, nil)
	descComposed  = prometheus.NewDesc("t2_composed_models", "Composed weights that are kept.", nil, nil)
	descMixtures  = prometheus.NewDesc("t2_mixtures", "Mixtures of experts that are held ready, by form: merged (a model each) or unmerged (scales of shared factors).", []string{"form"}, nil)
	descBytes     = prometheus.NewDesc("t2_mixture_bytes", "Memory of what is held for mixtures beyond the base model, by form.", []string{"form"}, nil)
	descComputed  = prometheus.NewDesc("t2_computed_tokens_total", "Tokens of prompts and answers that were computed, by form; the base's own weights are merged.", []string{"form"}, nil)
	descBatches   = prometheus.NewDesc("t2_computed_batches_total", "Batches that were computed, by form.", []string{"form"}, nil)
	descTokens    = prometheus.NewDesc("t2_tokens_total", "Tokens by kind: prompt (read), cached (found in the prefix cache), answer (written).", []string{"kind"}, nil)
	descBlocks    = prometheus.NewDesc("t2_cache_blocks", "Blocks of the key-value cache: total, used (hold tokens), cached (of these, kept for requests that begin alike, and evicted for others), idle (of these, in no running request) and reserved (for prompts that are being read).", []string{"state"}, nil)
	descSteps     = prometheus.NewDesc("t2_engine_steps_total", "Steps of the engine, each of which computes a batch per model.", nil, nil)
	descCancelled = prometheus.NewDesc("t2_engine_cancelled_total", "Passes that were given up by their clients.", nil, nil)
	descPreempted = prometheus.NewDesc("t2_engine_preempted_total", "Times that a request gave way to older ones for want of blocks, and was computed again.", nil, nil)
	descFailed    = prometheus.NewDesc("t2_engine_failed_total", "Passes that failed.", nil, nil)
	descBudget    = prometheus.NewDesc("t2_memory_budget_bytes", "What the plan of memory gives to each of its parts: weights, cache, activations, experts, swap (making a mixture), bodies (of requests), process, loading (of the model, for a while, before most others) and heap (the limit of Go's that is in force, GOMEMLIMIT's where that is set, 0 for none); limit is what there is.", []string{"of"}, nil)
	descUsed      = prometheus.NewDesc("t2_memory_used_bytes", "What parts of the plan of memory have in use: cache (blocks that hold tokens), experts (merged models and factors, held or still in use) and bodies.", []string{"of"}, nil)
	descReady     = prometheus.NewDesc("t2_ready", "1 while the pod may receive requests.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descWaiting, descRunning, descChoosing, descComposed, descMixtures, descBytes, descComputed, descBatches,
		descTokens, descBlocks, descSteps, descCancelled, descPreempted, descFailed, descBudget, descUsed, descReady,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (e *engineCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ready := int64(0)
	if e.server.unready() == nil {
		ready = 1
	}
	gauge(descReady, ready)
	var st engine.Stats
	if c := e.server.core.Load(); c != nil {
		st = c.engine.Stats()
	}
	gauge(descWaiting, int64(st.Waiting))
	gauge(descRunning, int64(st.Running))
	gauge(descChoosing, int64(st.Choosing))
	gauge(descComposed, int64(st.Merged.Mixtures))
	for form, f := range map[engine.Form]engine.FormStats{engine.FormMerged: st.Merged, engine.FormUnmerged: st.Unmerged} {
		gauge(descMixtures, int64(f.Mixtures), string(form))
		gauge(descBytes, f.Bytes, string(form))
		counter(descComputed, f.Tokens, string(form))
		counter(descBatches, f.Batches, string(form))
	}
	counter(descTokens, st.PromptTokens, "prompt")
	counter(descTokens, st.CachedTokens, "cached")
	counter(descTokens, st.Tokens, "answer")
	gauge(descBlocks, int64(st.Blocks.Total), "total")
	gauge(descBlocks, int64(st.Blocks.Used), "used")
	gauge(descBlocks, int64(st.Blocks.Cached), "cached")
	gauge(descBlocks, int64(st.Blocks.Idle), "idle")
	gauge(descBlocks, int64(st.Blocks.Reserved), "reserved")
	counter(descSteps, st.Steps)
	counter(descCancelled, st.Cancelled)
	counter(descPreempted, st.Preempted)
	counter(descFailed, st.Failed)
	plan := e.server.planned.Load()
	if plan == nil {
		return
	}
	limit, _ := plan.Limit()
	for of, bytes := range map[string]int64{
		"limit": limit, "weights": plan.Weights, "cache": plan.Cache, "activations": plan.Activations, "experts": plan.Experts,
		"swap": plan.Swap, "bodies": plan.Bodies, "process": plan.Process, "loading": plan.Loading, "heap": heapLimit(),
	} {
		gauge(descBudget, bytes, of)
	}
	for of, bytes := range map[string]int64{
		"cache": plan.Cache / int64(plan.CacheTokens) * model.BlockSize * int64(st.Blocks.Used), "experts": st.Merged.Bytes + st.Unmerged.Bytes, "bodies": e.server.bodies.inUse(),
	} {
		gauge(descUsed, bytes, of)
	}
}

// setCollector reads the counters of the expert set in use when they are asked
// for: at most contract.MaxExperts of them.
type setCollector struct{ server *Server }

var (
	descFallbacks = prometheus.NewDesc("t2_fallbacks_total", "Answered requests for which pass 1 chose no expert.", nil, nil)
	descExpert    = prometheus.NewDesc("t2_expert_requests_total", "Answered requests in which an expert of the set in use took part.", []string{"expert"}, nil)
	descOutcomes  = prometheus.NewDesc("t2_outcomes", "Answers that clients have marked right or wrong, as they see it now, by the expert of the set in use, or base, that took part.", []string{"expert", "outcome"}, nil)
	descKept      = prometheus.NewDesc("t2_kept_requests", "Requests of which it is kept how they were answered.", nil, nil)
	descKeptBytes = prometheus.NewDesc("t2_kept_request_bytes", "Memory that they take.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*setCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descFallbacks, descExpert, descOutcomes, descKept, descKeptBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *setCollector) Collect(ch chan<- prometheus.Metric) {
	status := c.server.Status()
	ch <- prometheus.MustNewConstMetric(descFallbacks, prometheus.CounterValue, float64(status.Fallbacks))
	for _, e := range status.Experts {
		ch <- prometheus.MustNewConstMetric(descExpert, prometheus.CounterValue, float64(e.Requests), e.Name)
		collectOutcomes(ch, e.Name, e.Outcomes)
	}
	collectOutcomes(ch, contract.BaseName, status.BaseOutcomes)
	requests, bytes := c.server.kept.Usage()
	ch <- prometheus.MustNewConstMetric(descKept, prometheus.GaugeValue, float64(requests))
	ch <- prometheus.MustNewConstMetric(descKeptBytes, prometheus.GaugeValue, float64(bytes))
}

// collectOutcomes tells the outcomes of one expert, none where o is nil. They are no counters: a
// client may think otherwise later.
func collectOutcomes(ch chan<- prometheus.Metric, expert string, o *contract.Outcomes) {
	if o == nil {
		o = &contract.Outcomes{}
	}
	ch <- prometheus.MustNewConstMetric(descOutcomes, prometheus.GaugeValue, float64(o.Right), expert, "right")
	ch <- prometheus.MustNewConstMetric(descOutcomes, prometheus.GaugeValue, float64(o.Wrong), expert, "wrong")
}
