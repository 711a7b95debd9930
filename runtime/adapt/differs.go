package adapt

import "math"

// Differs reports whether another decision for the same request would be answered otherwise:
// by other experts, or by the same ones in shares that differ by more than they are rounded
// by. Experts are compared by their names: those of two sets may be of different versions.
func (d Decision) Differs(other Decision) bool {
	if d.Expert != other.Expert {
		return true
	}
	for name, share := range d.Weights {
		if math.Abs(share-other.Weights[name]) > 1.0/shareParts {
			return true
		}
	}
	return false
}
