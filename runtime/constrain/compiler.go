package constrain

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
)

// Options say how schemas are read.
type Options struct {
	// Open lets an object have properties that its schema does not list, where the
	// schema lists some and says nothing of others, as JSON Schema has it. Without it such
	// an object has only those that are listed: what a schema is for, and what OpenAI's strict
	// schemas must say. An object of which nothing is listed may have any.
	Open bool
}

// Compiler compiles schemas for one vocabulary, and keeps what was used last. It may be used
// concurrently.
type Compiler struct {
	vocabulary *Vocabulary
	options    Options

	mu      sync.Mutex
	entries map[[sha256.Size]byte]*list.Element
	recent  *list.List // Of *entry, the last used first.
	held    int        // Bytes of the grammars.
}

// entry is a grammar, or one that is being compiled.
type entry struct {
	key     [sha256.Size]byte
	done    chan struct{} // Closed when the others are there.
	grammar *Grammar
	err     error
	gaveUp  bool // The caller who compiled it has, which says nothing of the schema.
}

// NewCompiler returns a compiler for a vocabulary.
func NewCompiler(v *Vocabulary, o Options) *Compiler {
	return &Compiler{vocabulary: v, options: o, entries: map[[sha256.Size]byte]*list.Element{}, recent: list.New()}
}

// Schema returns the grammar of a JSON Schema. An error is a *SchemaError, or ctx's. Those
// who ask for the same schema at once wait for one compilation.
func (c *Compiler) Schema(ctx context.Context, schema []byte) (*Grammar, error) {
	return c.compile(ctx, "schema", schema, func(b *builder) error {
		n, err := parse(schema)
		if err != nil {
			return err
		}
		return b.build(goal{n})
	})
}

// parse reads a schema.
func parse(schema []byte) (*node, error) {
	v, err := parseValue(schema)
	if err != nil {
		return nil, err
	}
	return read(v)
}

// Object returns the grammar of any JSON object.
func (c *Compiler) Object(ctx context.Context) (*Grammar, error) {
	return c.compile(ctx, "object", nil, func(b *builder) error {
		return b.build(goal{anyObject()})
	})
}

func anyObject() *node { return &node{kinds: kindObject, maxLength: -1, maxItems: -1} }

// Layout returns the grammar of a layout. Where one of its schemas is wrong the error is a
// *SchemaError that says which.
func (c *Compiler) Layout(ctx context.Context, l Layout) (*Grammar, error) {
	return c.compile(ctx, "layout", l.key(nil), func(b *builder) error { return b.buildLayout(l) })
}

// Pattern returns the grammar of the texts in which a regular expression matches, which are
// plain texts and no JSON.
func (c *Compiler) Pattern(ctx context.Context, expression string) (*Grammar, error) {
	return c.compile(ctx, "pattern", []byte(expression), func(b *builder) error { return b.buildText(expression) })
}

// compile finds a grammar, or makes it.
func (c *Compiler) compile(ctx context.Context, kind string, source []byte, build func(*builder) error) (*Grammar, error) {
	key := sha256.Sum256(append([]byte(kind+"\x00"), source...))
	for {
		e, mine := c.entry(key)
		if mine {
			g, err := c.make(ctx, build)
			c.settle(e, g, err, ctx.Err() != nil)
			return g, err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !e.gaveUp {
			return e.grammar, e.err
		}
	}
}

// entry returns the entry of a key, and whether the caller has to fill it.
func (c *Compiler) entry(key [sha256.Size]byte) (*entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.entries[key]; element != nil {
		c.recent.MoveToFront(element)
		e, _ := element.Value.(*entry)
		return e, false
	}
	e := &entry{key: key, done: make(chan struct{})}
	c.entries[key] = c.recent.PushFront(e)
	return e, true
}

// settle hands an entry to those who wait for it. One that failed is forgotten, and the
// least recently used for want of room.
func (c *Compiler) settle(e *entry, g *Grammar, err error, gaveUp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.grammar, e.err, e.gaveUp = g, err, gaveUp && err != nil
	close(e.done)
	if e.err != nil {
		if element := c.entries[e.key]; element != nil && element.Value == e {
			c.recent.Remove(element)
			delete(c.entries, e.key)
		}
		return
	}
	c.held += e.grammar.size
	for element := c.recent.Back(); element != nil && (c.held > grammarBytes || c.recent.Len() > maxGrammars); {
		oldest, _ := element.Value.(*entry)
		element = element.Prev()
		if oldest.grammar == nil || oldest == e {
			continue // It is being compiled.
		}
		c.held -= oldest.grammar.size
		c.recent.Remove(c.entries[oldest.key])
		delete(c.entries, oldest.key)
	}
}

var errSlow = fmt.Errorf("it takes more than %v to compile", CompileTime)

// make compiles a grammar.
func (c *Compiler) make(ctx context.Context, build func(*builder) error) (*Grammar, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, CompileTime, &SchemaError{Reason: errSlow.Error() + ": make it simpler"})
	defer cancel()
	b := newBuilder(ctx, c.options.Open)
	if err := build(b); err != nil {
		return nil, err
	}
	return &Grammar{vocabulary: c.vocabulary, machine: newMachine(&b.nfa), size: b.size()}, nil
}
