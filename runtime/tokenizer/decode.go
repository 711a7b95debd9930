package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A text is decoded as it comes: its tokens go one by one through the stages of
// the tokenizer's decoder, each of which hands on what no later token can
// change. Decoding a whole text is the same with nothing to come. So what is
// streamed is what is decoded whole, whatever the decoder.

// part is a piece of a token's spelling on its way through the stages. Stages
// that fuse tokens make one of all, in many parts.
type part struct {
	text string
	// first and last say that the token begins, and ends, with this part.
	first, last bool
}

// stage is one component of a decoder, at work on one text.
type stage interface {
	// push takes the next part, and hands on what is certain.
	push(p part, next func(part))
	// flush hands on what was held back: nothing follows.
	flush(next func(part))
}

// surroundings say what is known of the text that a decoder works on.
type surroundings struct {
	// inside says that the text goes on before and behind: nothing is stripped
	// from its ends.
	inside bool
	// raw keeps bytes that are no UTF-8 instead of replacing them.
	raw bool
}

// decoder makes the stages for one text.
type decoder func(surroundings) []stage

func parseDecoder(raw json.RawMessage) (decoder, error) {
	components, err := flatten(raw, func(c component) []json.RawMessage { return c.Decoders })
	if err != nil {
		return nil, err
	}
	if len(components) == 0 {
		// Without a decoder tokens are words.
		return func(s surroundings) []stage { return []stage{&wordsStage{begun: s.inside}} }, nil
	}
	makers := make([]func(surroundings) stage, len(components))
	for i, c := range components {
		if makers[i], err = stageOf(c); err != nil {
			return nil, err
		}
	}
	return func(s surroundings) []stage {
		stages := make([]stage, len(makers))
		for i, newStage := range makers {
			stages[i] = newStage(s)
		}
		return stages
	}, nil
}

func stageOf(c component) (func(surroundings) stage, error) {
	switch c.Type {
	case "ByteLevel":
		return func(s surroundings) stage {
			return &byteLevelStage{fuseStage: fuseStage{inside: s.inside}, characters: characters{raw: s.raw}}
		}, nil
	case "ByteFallback":
		return func(s surroundings) stage {
			return &byteFallbackStage{characters: characters{raw: s.raw, each: true}}
		}, nil
	case "Fuse":
		return func(s surroundings) stage { return &fuseStage{inside: s.inside} }, nil
	case "Replace":
		replace, err := replacer(c)
		if err != nil {
			return nil, err
		}
		return func(surroundings) stage { return &replaceStage{pattern: c.Pattern.String, replace: replace} }, nil
	case "Strip":
		if utf8.RuneCountInString(c.Content) != 1 || c.Start < 0 || c.Stop < 0 || max(c.Start, c.Stop) > maxInsert {
			return nil, fmt.Errorf("strip decoder of %q, %d and %d makes no sense", c.Content, c.Start, c.Stop)
		}
		return func(surroundings) stage { return &stripStage{content: c.Content, start: c.Start, stop: c.Stop} }, nil
	case "Metaspace":
		replacement := c.Replacement
		if replacement == "" {
			replacement = sentencePieceSpace
		}
		strips := c.PrependScheme != "never" && (c.AddPrefixSpace == nil || *c.AddPrefixSpace)
		return func(s surroundings) stage {
			return &metaspaceStage{replacement: replacement, strips: strips && !s.inside}
		}, nil
	default:
		return nil, fmt.Errorf("decoder %q is not supported", c.Type)
	}
}

// pipeline is a decoder at work on one text.
type pipeline struct {
	stages []stage
	next   []func(part) // What each stage hands its parts to.
	sizes  []int        // Bytes that came to each stage; behind them, the text's.
	// overgrown says that the stages blow the text up; see checkGrowth.
	overgrown bool
	text      strings.Builder // What has become certain since take.
}

func (d decoder) start(s surroundings) *pipeline {
	p := &pipeline{stages: d(s)}
	p.sizes = make([]int, len(p.stages)+1)
	for i := range p.stages {
		p.next = append(p.next, func(x part) { p.hand(i+1, x) })
	}
	return p
}

// hand gives a part to the i-th stage, or to the text behind the last.
func (p *pipeline) hand(i int, x part) {
	p.sizes[i] += len(x.text)
	switch {
	case p.overgrown || checkGrowth(p.sizes[0], p.sizes[i]) != nil:
		p.overgrown = true
	case i < len(p.stages):
		p.stages[i].push(x, p.next[i])
	default:
		p.text.WriteString(x.text)
	}
}

// push takes the next token. Of a decoder that blows texts up, the rest comes as
// it is spelled: that is better than nothing.
func (p *pipeline) push(token string) {
	if !p.overgrown {
		p.hand(0, part{text: token, first: true, last: true})
	}
	if p.overgrown {
		p.text.WriteString(token)
	}
}

// flush says that no token follows.
func (p *pipeline) flush() {
	for i, s := range p.stages {
		s.flush(p.next[i])
	}
}

// take returns the text that has become certain since it was last called.
func (p *pipeline) take() string {
	text := p.text.String()
	p.text.Reset()
	return text
}

// wordsStage puts a blank between tokens.
type wordsStage struct{ begun bool }

func (w *wordsStage) push(p part, next func(part)) {
	if p.first && w.begun {
		p.text = " " + p.text
	}
	w.begun = true
	next(p)
}

func (*wordsStage) flush(func(part)) {}

// fuseStage makes one token of all.
type fuseStage struct{ inside, begun bool }

func (f *fuseStage) push(p part, next func(part)) {
	next(part{text: p.text, first: !f.begun && !f.inside})
	f.begun = true
}

func (f *fuseStage) flush(next func(part)) {
	next(part{first: !f.begun && !f.inside, last: !f.inside})
	f.begun = false
}

// whole puts the parts of a token together.
type whole struct{ held strings.Builder }

// push returns the token once it is complete.
func (w *whole) push(p part) (token string, complete bool) {
	if p.last && w.held.Len() == 0 {
		return p.text, true // Nearly always.
	}
	w.held.WriteString(p.text)
	if !p.last {
		return "", false
	}
	token = w.held.String()
	w.held.Reset()
	return token, true
}

// byteLevelStage turns characters that spell bytes back, and makes one token of all.
type byteLevelStage struct {
	fuseStage
	whole
	characters

	bytes []byte
}

func (b *byteLevelStage) push(p part, next func(part)) {
	if token, ok := b.whole.push(p); ok {
		b.bytes = appendSpelled(b.bytes[:0], token)
		b.fuseStage.push(part{text: b.characters.push(b.bytes...)}, next)
	}
}

func (b *byteLevelStage) flush(next func(part)) {
	if b.held.Len() > 0 { // Of a token that does not end here.
		b.push(part{last: true}, next)
	}
	b.fuseStage.push(part{text: b.rest()}, next)
	b.fuseStage.flush(next)
}

// byteFallbackStage makes characters of runs of tokens "<0xNN>", a token of each run.
// Like SentencePiece, and unlike Hugging Face's decoder, it lets a bad byte
// spoil no character before it: that one may have been read already.
type byteFallbackStage struct {
	whole
	characters

	running, begun bool // In a run; its first part has been handed on.
}

func (b *byteFallbackStage) push(p part, next func(part)) {
	token, ok := b.whole.push(p)
	if !ok {
		return
	}
	c, ok := byteToken(token)
	if !ok {
		b.endRun(next)
		next(part{text: token, first: true, last: true})
		return
	}
	b.running = true
	if text := b.characters.push(c); text != "" {
		next(part{text: text, first: !b.begun})
		b.begun = true
	}
}

func (b *byteFallbackStage) flush(next func(part)) {
	if b.held.Len() > 0 { // Of a token that does not end here.
		b.push(part{last: true}, next)
	}
	b.endRun(next)
}

func (b *byteFallbackStage) endRun(next func(part)) {
	if b.running {
		next(part{text: b.rest(), first: !b.begun, last: true})
	}
	b.running, b.begun = false, false
}

// replaceStage replaces a pattern within tokens. A regular expression waits for
// the whole token, since any character may change what it matches.
type replaceStage struct {
	pattern *string // nil for a regular expression.
	replace normalizer
	held    string
	first   bool // What is held begins the token.
}

func (r *replaceStage) push(p part, next func(part)) {
	r.held += p.text
	r.first = r.first || p.first
	keep := 0
	switch {
	case p.last:
	case r.pattern == nil:
		keep = len(r.held)
	default:
		keep = unfinished(r.held, *r.pattern)
	}
	r.hand(len(r.held)-keep, p.last, next)
}

func (r *replaceStage) flush(next func(part)) { r.hand(len(r.held), false, next) }

// hand replaces in the first n bytes of what is held, and hands them on.
func (r *replaceStage) hand(n int, last bool, next func(part)) {
	if n == 0 && !last {
		return
	}
	text := r.held[:n]
	if utf8.ValidString(text) {
		if replaced, err := r.replace(text); err == nil {
			text = replaced // Else an expression ran out of time; the spelling is better than nothing.
		}
	}
	next(part{text: text, first: r.first, last: last})
	r.held, r.first = r.held[n:], false
}

// unfinished returns how many bytes at the end of a text may turn out to begin
// a match of the pattern.
func unfinished(text, pattern string) int {
	// What a match has taken begins no other; matches are counted from the left.
	for i := strings.Index(text, pattern); i >= 0; i = strings.Index(text, pattern) {
		text = text[i+len(pattern):]
	}
	for n := min(len(pattern)-1, len(text)); n > 0; n-- {
		if strings.HasSuffix(text, pattern[:n]) {
			return n
		}
	}
	return 0
}

// stripStage takes a character off both ends of every token, so many times at most.
type stripStage struct {
	content     string
	start, stop int
	left        int // That may still be taken off the beginning.
	held        int // That were at the end of what has come, and are not handed on.
}

func (s *stripStage) push(p part, next func(part)) {
	if p.first {
		s.left, s.held = s.start, 0
	}
	text := p.text
	for s.left > 0 && strings.HasPrefix(text, s.content) {
		text = text[len(s.content):]
		s.left--
	}
	if text != "" {
		s.left = 0
	}
	if s.held > 0 {
		text = strings.Repeat(s.content, s.held) + text
	}
	for s.held = 0; s.held < s.stop && strings.HasSuffix(text, s.content); s.held++ {
		text = text[:len(text)-len(s.content)]
	}
	if p.last {
		s.held = 0
	}
	next(part{text: text, first: p.first, last: p.last})
}

// flush hands on what was held back of a token that does not end here.
func (s *stripStage) flush(next func(part)) {
	if s.held > 0 {
		next(part{text: strings.Repeat(s.content, s.held)})
		s.held = 0
	}
}

// metaspaceStage makes blanks of the character that stands for them, and leaves out
// the one that begins the text.
type metaspaceStage struct {
	replacement string
	strips      bool // The text has not begun.
}

func (m *metaspaceStage) push(p part, next func(part)) {
	text := p.text
	if m.strips && (text != "" || p.last) {
		text, m.strips = strings.TrimPrefix(text, m.replacement), false
	}
	next(part{text: strings.ReplaceAll(text, m.replacement, " "), first: p.first, last: p.last})
}

func (*metaspaceStage) flush(func(part)) {}
