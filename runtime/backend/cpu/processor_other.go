//go:build !linux

package cpu

// processorModel is not known: what is measured is not kept.
func processorModel() string { return "" }
