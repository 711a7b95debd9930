package server

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/engine"
	"github.com/transformersquared/operator/runtime/model"
)

// MetricNames are the names of the gauges for endpoint pickers, by what they are
// (contract.GaugeQueued and so on); the empty name means that there is none. They are on
// contract.PathMetrics of contract.PortAPI. Each can have another name, because pickers ask
// for those of the server that they know.
type MetricNames map[string]string

// DefaultMetricNames are vLLM's.
func DefaultMetricNames() MetricNames { return contract.DefaultGaugeNames() }

// Prometheus' names, without those that this server gives to others.
var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	ownMetrics = regexp.MustCompile(`^(t2|go|process|promhttp)_`)
)

// ParseMetricNames returns the default names but for those that are given, WHAT=NAME each.
func ParseMetricNames(given []string) (MetricNames, error) {
	names := MetricNames{}
	for _, g := range given {
		what, name, ok := strings.Cut(g, "=")
		if _, known := poolHelp[what]; !ok || !known {
			return nil, fmt.Errorf("%q is not WHAT=NAME with one of %s as WHAT", g, strings.Join(slices.Sorted(maps.Keys(poolHelp)), ", "))
		}
		names[what] = name
	}
	return names.orDefault()
}

// orDefault returns the names and vLLM's for the other gauges.
func (n MetricNames) orDefault() (MetricNames, error) {
	names := DefaultMetricNames()
	maps.Copy(names, n)
	return names, names.check()
}

// check says what is wrong with the names.
func (n MetricNames) check() error {
	taken := map[string]string{}
	for _, what := range slices.Sorted(maps.Keys(n)) {
		name := n[what]
		switch {
		case poolHelp[what] == "":
			return fmt.Errorf("%s is none of %s", clip(what), strings.Join(slices.Sorted(maps.Keys(poolHelp)), ", "))
		case name == "":
			continue
		case !metricName.MatchString(name):
			return fmt.Errorf("%s=%s: metrics have names of letters, digits, _ and :, of which the first is no digit", what, name)
		case ownMetrics.MatchString(name):
			return fmt.Errorf("%s=%s: names that begin with t2_, go_, process_ or promhttp_ are taken", what, name)
		case taken[name] != "":
			return fmt.Errorf("%s=%s: that is the name of %s", what, name, taken[name])
		}
		taken[name] = what
	}
	return nil
}

// poolCollector reads what endpoint pickers ask for.
type poolCollector struct {
	server *Server
	descs  map[string]*prometheus.Desc
}

// newPoolCollector has no metrics where the names are wrong, which Load says.
func newPoolCollector(s *Server, names MetricNames) *poolCollector {
	c := &poolCollector{server: s, descs: map[string]*prometheus.Desc{}}
	if names == nil {
		names = DefaultMetricNames()
	}
	if names.check() != nil {
		return c
	}
	for what, name := range names {
		if name != "" {
			c.descs[what] = prometheus.NewDesc(name, poolHelp[what], poolLabels[what], nil)
		}
	}
	return c
}

// poolHelp are the gauges' descriptions, poolLabels the labels of those that have some.
var (
	poolHelp = map[string]string{
		contract.GaugeQueued:  "Requests that wait, for endpoint pickers: t2_waiting_requests.",
		contract.GaugeRunning: "Requests that are computed, for endpoint pickers: t2_running_requests.",
		contract.GaugeCache:   "Share of the key-value cache that requests in the batch hold, 0 to 1, for endpoint pickers. What can be evicted is free.",
		contract.GaugeBlocks:  "Tokens in a block of the key-value cache, and number of blocks, as labels, for endpoint pickers.",
		contract.GaugeExperts: "Model names of the experts that are served (running) and that are being loaded (waiting), as labels, for endpoint pickers.",
	}
	poolLabels = map[string][]string{
		contract.GaugeBlocks:  {"block_size", "num_gpu_blocks"},
		contract.GaugeExperts: {"max_lora", "running_lora_adapters", "waiting_lora_adapters"},
	}
)

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(what string, v float64, labels ...string) {
		if d := c.descs[what]; d != nil {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		}
	}
	var st engine.Stats
	if core := c.server.core.Load(); core != nil {
		st = core.engine.Stats()
	}
	gauge(contract.GaugeQueued, float64(st.Waiting))
	gauge(contract.GaugeRunning, float64(st.Running))
	gauge(contract.GaugeCache, held(st.Blocks))
	if st.Blocks.Total > 0 {
		gauge(contract.GaugeBlocks, 1, strconv.Itoa(model.BlockSize), strconv.Itoa(st.Blocks.Total))
	}
	running, waiting := c.server.expertModels()
	// Requests bring no experts along: a pod has those of its set, and room for no others.
	// Pickers would send a request for another one to where there is room.
	most := strconv.Itoa(len(running) + len(waiting))
	// The value tells pickers which of several is the newest.
	gauge(contract.GaugeExperts, float64(time.Now().UnixMilli())/1000, most, strings.Join(running, ","), strings.Join(waiting, ","))
}

// held is the share of a cache's blocks that cannot be given to another request.
func held(b engine.BlockStats) float64 {
	if b.Total == 0 {
		return 0
	}
	return float64(max(b.Used-b.Idle, 0)) / float64(b.Total)
}

// expertModels lists the model names of experts that can be asked for now, and of those
// that are being loaded. The classifier is neither: nobody can ask for it.
func (s *Server) expertModels() (served, loading []string) {
	// Under the loader's mutex, so that what is desired and what is in use belong
	// together.
	s.loader.mu.Lock()
	defer s.loader.mu.Unlock()
	in := map[string]bool{}
	if set := s.set.Load(); set != nil {
		for _, ref := range set.spec.Experts {
			in[ref.Name] = true
			served = append(served, s.config.Name+":"+ref.Name)
		}
	}
	if o := s.loader.desired; o != nil && o.err == nil {
		for _, ref := range o.spec.Experts {
			if !in[ref.Name] {
				loading = append(loading, s.config.Name+":"+ref.Name)
			}
		}
	}
	return served, loading
}
