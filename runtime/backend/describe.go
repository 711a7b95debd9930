package backend

import "log/slog"

// Describer is a backend that says what it computes on, for people. It is optional.
type Describer interface {
	Describe() []Fact
}

// Fact is one thing about a device: "Driver", "CUDA 12.4".
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Facts are what a backend says of itself, if anything.
func Facts(be Backend) []Fact {
	if d, ok := be.(Describer); ok {
		return d.Describe()
	}
	return nil
}

// LogFacts writes them to the log of a process that computes, as one line.
func LogFacts(log *slog.Logger, be Backend) {
	args := []any{"backend", be.Name()}
	for _, f := range Facts(be) {
		args = append(args, f.Name, f.Value)
	}
	log.Info("Opened what computes", args...)
}
