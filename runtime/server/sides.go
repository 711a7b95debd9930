package server

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transformersquared/operator/runtime/contract"
)

// sidesCollector reads what a candidate and its set are compared by when it is asked for.
// Nothing is there without a candidate, and all begins at 0 with each.
type sidesCollector struct{ server *Server }

var (
	descShare         = prometheus.NewDesc("t2_candidate_percent", "Share of the conversations that the candidate answers (mode Canary) or chooses for, too (Observe); 0 while it is being loaded.", []string{"mode"}, nil)
	descSideRequests  = prometheus.NewDesc("t2_side_requests_total", "Requests by side, stable or candidate, since the candidate was taken into use, and by result: answered or failed.", []string{"side", "result"}, nil)
	descSideFallbacks = prometheus.NewDesc("t2_side_fallbacks_total", "Answered requests by side for which pass 1 chose no expert.", []string{"side"}, nil)
	descSideTokens    = prometheus.NewDesc("t2_side_tokens_total", "Tokens of answers by side.", []string{"side"}, nil)
	descSideFirst     = prometheus.NewDesc("t2_side_first_token_seconds_total", "Sum of the times to the first token of answered requests by side, pass 1 and waiting included.", []string{"side"}, nil)
	descSideOutcomes  = prometheus.NewDesc("t2_side_outcomes", "Answers by side that clients have marked right or wrong, as they see it now.", []string{"side", "outcome"}, nil)
	descObserved      = prometheus.NewDesc("t2_observed_choices_total", "Choices of a candidate in mode Observe, by result: same, different, failed, or dropped for the sake of requests.", []string{"result"}, nil)
)

// Describe implements prometheus.Collector.
func (*sidesCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descShare, descSideRequests, descSideFallbacks, descSideTokens, descSideFirst, descSideOutcomes, descObserved} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *sidesCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.server.Status().Candidate
	if st == nil {
		return
	}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	share := 0
	if st.Served {
		share = st.Percent
	}
	send(descShare, prometheus.GaugeValue, float64(share), st.Mode)
	for side, n := range map[string]contract.SideCounts{contract.SideStable: st.Stable, contract.SideCandidate: st.Candidate} {
		send(descSideRequests, prometheus.CounterValue, float64(n.Requests-n.Errors), side, "answered")
		send(descSideRequests, prometheus.CounterValue, float64(n.Errors), side, "failed")
		send(descSideFallbacks, prometheus.CounterValue, float64(n.Fallbacks), side)
		send(descSideTokens, prometheus.CounterValue, float64(n.Tokens), side)
		send(descSideFirst, prometheus.CounterValue, n.FirstTokenSeconds, side)
		thought := cmp.Or(n.Outcomes, &contract.Outcomes{})
		send(descSideOutcomes, prometheus.GaugeValue, float64(thought.Right), side, "right")
		send(descSideOutcomes, prometheus.GaugeValue, float64(thought.Wrong), side, "wrong")
	}
	if o := st.Observed; o != nil {
		for result, n := range map[string]int64{"same": o.Compared - o.Different, "different": o.Different, "failed": o.Failed, "dropped": o.Dropped} {
			send(descObserved, prometheus.CounterValue, float64(n), result)
		}
	}
}
