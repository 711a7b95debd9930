package toolcall

import "strings"

// status is how far a scanner is.
type status int

const (
	going status = iota
	done         // What it looks for is complete.
	bad          // It cannot become what it looks for.
)

// scan looks for a call, or a list of calls, from its marker on. All texts that it is given
// begin with the marker.
type scan interface {
	// run takes what has come since it was last called: text begins with all that came before.
	run(text string) status
	// length is how much of the text belongs to the calls, once they are done.
	length() int
	// count is how many calls have begun.
	count() int
	// head returns a call's name, and its id where it has one; ok says that its arguments
	// have begun.
	head(text string, i int) (name, id string, ok bool)
	// arguments returns as much of a call's arguments as is certain, and whether that is all.
	arguments(text string, i int) (json string, all bool)
	// whole returns a complete call; ok says that it is well formed.
	whole(text string, i int) (c Call, ok bool)
	// complete reports whether nothing of the calls is missing, at the answer's end. Models
	// may leave out the last marker.
	complete() bool
}

// newScan returns the scan of a family.
func (f *family) newScan(o Offer) scan {
	switch f.form {
	case formNamed:
		return &namedScan{family: f}
	case formElements:
		return &elementsScan{family: f, offer: o}
	default:
		return &jsonScan{family: f}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

const whiteSpace = " \n\t\r"

// overlap is the length of the longest end of a text that a marker begins with, but for the
// whole marker.
func overlap(text, marker string) int {
	for n := min(len(marker)-1, len(text)); n > 0; n-- {
		if strings.HasSuffix(text, marker[:n]) {
			return n
		}
	}
	return 0
}
