package backend

import "log/slog"

// Origin names a matrix by where it comes from: two of one origin, type and shape are the
// same, bit for bit.
type Origin struct {
	// Digest is that of the artifact that has it.
	Digest string
	// Name is its name there, of letters, digits, dots, dashes and underscores.
	Name string
}

// Sharer is a backend that can keep weights in memory that several processes share. It is
// optional.
type Sharer interface {
	// ShareWeights lets SharedWeight keep weights in files below a folder, which other
	// processes on this machine map too, and says in the log why where it does not. It is
	// called once, before weights are made.
	ShareWeights(dir string, log *slog.Logger)
	// SharedWeight is NewWeight for a matrix that never changes, of data that is asked for
	// only where nobody has made the weight before: Compose does not write to it. What
	// cannot be shared is this process's own; that is no error.
	SharedWeight(of Origin, t DType, out, in int, data func() ([]float32, error)) (Weight, error)
}

// SharedWeight returns a weight by a device's SharedWeight, or by NewWeight where it has
// none or the matrix has no origin.
func SharedWeight(d Device, of Origin, t DType, out, in int, data func() ([]float32, error)) (Weight, error) {
	if sharer, ok := d.(Sharer); ok && of != (Origin{}) {
		return sharer.SharedWeight(of, t, out, in, data)
	}
	values, err := data()
	if err != nil {
		return nil, err
	}
	return d.NewWeight(t, out, in, values)
}
