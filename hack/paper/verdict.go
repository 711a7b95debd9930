package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
)

// noted is the remark about what a number follows.
func noted(text string) string { return "Paper and released code: " + text }

// compared says in words where SVF, the first row, loses to another method by more than
// the standard error of the difference, and where it does not. The error is that of
// independent samples, though all answer the same questions: it is rather too large.
func compared(when string, rows []named) string {
	if len(rows) == 0 || rows[0].name != contract.MethodSVF {
		return ""
	}
	var lost, known []string
	for _, other := range rows[1:] {
		for i, k := range skills {
			a, b := rows[0].values[i], other.values[i]
			if !a.known || !b.known {
				continue
			}
			known = append(known, k.name)
			if gap, err := b.mean-a.mean, math.Hypot(a.err, b.err); gap > err {
				lost = append(lost, fmt.Sprintf("%s on %s by %.1f points (± %.1f)", other.name, k.name, 100*gap, 100*err))
			}
		}
	}
	switch {
	case len(known) == 0:
		return ""
	case len(lost) == 0:
		return when + ", SVF loses nowhere by more than a standard error of the difference."
	default:
		return fmt.Sprintf("%s, SVF loses to %s: %d of %d comparisons.", when, strings.Join(lost, ", "), len(lost), len(known))
	}
}
