// Package monitoring tests config/monitoring against the types of Prometheus' operator, by
// Prometheus' own tool, and against Grafana's model of a dashboard.
package monitoring
