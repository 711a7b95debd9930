package constrain

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of what a schema may take.
const (
	// MaxBytes is the length of a schema, in bytes.
	MaxBytes = 256 << 10
	// MaxDepth is how deep a schema is nested.
	MaxDepth = 128
	// MaxCount bounds minLength, maxLength, minItems, maxItems.
	MaxCount = 1 << 14
	// MaxMultiple bounds multipleOf, in units of its last digit.
	MaxMultiple = 4096
	// CompileTime is how long the compilation of one schema may take.
	CompileTime = 5 * time.Second

	maxStates     = 1 << 17 // Of a grammar.
	maxClauses    = 256     // Alternatives of one value, once allOf and anyOf are multiplied.
	maxDFA        = 1 << 12 // States of a pattern.
	maxConfigs    = 1 << 14 // Of a state: positions that a text may have reached.
	machineBytes  = 4 << 20 // Of a grammar's memoised states.
	grammarBytes  = 64 << 20
	maxGrammars   = 64
	maskBytes     = 64 << 20 // Of all grammars' masks.
	maxExpression = 4 << 10  // Bytes of a pattern.
)

// ErrStuck says that a vocabulary has no token that may come next.
var ErrStuck = errors.New("the vocabulary has no token that the schema allows here")

// ErrTooComplex says that a text can be read in too many ways at once.
var ErrTooComplex = errors.New("the schema is too ambiguous: too many of its parts match what has been written")

// SchemaError says what is wrong with a schema, or not supported, and where.
type SchemaError struct {
	// Schema is the name of the schema within a Layout; empty outside of one.
	Schema string
	// Place is a JSON pointer into the schema; empty is the schema itself.
	Place string
	// Reason says what is wrong and what to do.
	Reason string
}

// Error names the place and the reason.
func (e *SchemaError) Error() string {
	if e.Place == "" {
		return "the schema: " + e.Reason
	}
	return fmt.Sprintf("the schema at %s: %s", e.Place, e.Reason)
}

func refuse(place, format string, args ...any) error {
	return &SchemaError{Place: place, Reason: fmt.Sprintf(format, args...)}
}

// short shortens what a stranger sent before it is repeated.
func short(s string) string {
	const most = 60
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}
