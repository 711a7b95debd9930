package backend

// Pather is a backend that computes the same in several ways, whose results differ by
// rounding: what is continued on the way that it was begun ends with the same bits. It is
// optional.
type Pather interface {
	// Path names the way that it takes.
	Path() string
	// TakePath takes the named one from here on. It is for a backend that nothing was made
	// with yet, and fails on another, where a person has forced another way, and, with
	// ErrUnsupported, where this machine does not have that one.
	TakePath(name string) error
}
