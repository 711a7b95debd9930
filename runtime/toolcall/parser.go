package toolcall

import (
	"encoding/json"
	"strings"
)

// Parser divides an answer, which comes in pieces, into text and calls. It is not safe for
// concurrent use.
type Parser struct {
	format *Format
	offer  Offer
	// live says that the answer is constrained: what begins as a call is one.
	live bool
	// structured says that an answer which is no call has a structure, and so is nothing but
	// that, or calls.
	structured bool

	came  strings.Builder
	held  string // The end of came that is not decided: white space, the beginning of a marker, a call.
	blank int    // How much of held is the white space before a call.
	in    place
	scan  scan // nil outside of calls.
	calls int  // Handed on, the one that is being written included.
	used  map[string]bool
	// Of a call that is handed on as it is written: which of scan's it is, whether its name has
	// been, and how much of its arguments.
	current int
	told    bool
	sent    int
	text    *textReader // Of a TextFunction; else nil.
	cut     bool
	out     []Piece
}

// place is where in an answer a parser is.
type place int

const (
	atStart place = iota // Nothing has come but white space.
	inText               // A marker may come.
	inCall
	inRest // No call can come any more.
)

// NewParser returns a parser for an answer to an offer, which follows Layout. structured says
// that an answer without calls has a structure, too: it may spell whatever begins a call.
func (f *Format) NewParser(o Offer, structured bool) *Parser {
	p := &Parser{format: f, offer: o, used: map[string]bool{}, structured: structured && !o.demands()}
	p.live = o.constrained() && !p.structured
	if len(o.Functions) == 0 {
		p.in = inRest
	}
	return p
}

// Calls returns how many calls there have been so far.
func (p *Parser) Calls() int { return p.calls }

// Cut reports whether the last call's arguments end too early. It is known once Flush has been
// called.
func (p *Parser) Cut() bool { return p.cut }

// Push takes the next piece of the answer, and returns what has become certain.
func (p *Parser) Push(text string) []Piece {
	undecided := len(p.held)
	if done := p.came.Len() - undecided; done > undecided { // Or a long call would be copied for each of its tokens.
		held := strings.Clone(p.held)
		p.came.Reset()
		p.came.WriteString(held)
	}
	p.came.WriteString(text)
	all := p.came.String()
	p.held = all[len(all)-undecided-len(text):]
	for p.step() {
	}
	return p.take()
}

// Flush says that no more comes. cut says that the answer did not end by itself: then what has
// come of a call is handed on as one, if its name and the beginning of its arguments have.
func (p *Parser) Flush(cut bool) []Piece {
	if p.in == inCall {
		p.incomplete(cut)
	}
	switch {
	case p.live && (p.calls > 0 || p.offer.demands()): // The beginning of a call.
	case p.calls == 0 || strings.TrimSpace(p.held) != "":
		p.say(p.held)
	}
	p.held, p.in = "", inRest
	return p.take()
}

func (p *Parser) take() []Piece {
	out := p.out
	p.out = nil
	return out
}

func (p *Parser) say(text string) {
	if text != "" {
		p.out = append(p.out, Piece{Text: text})
	}
}

// step looks at what is held, and reports whether to look again.
func (p *Parser) step() bool {
	if p.held == "" {
		return false
	}
	switch p.in {
	case inRest:
		p.say(p.held)
		p.held = ""
		return false
	case inCall:
		return p.call()
	case atStart:
		return p.start()
	default:
		return p.marker()
	}
}

// start looks at how an answer begins: where calls have no marker, or all else has a structure,
// one is there or nowhere.
func (p *Parser) start() bool {
	trimmed := strings.TrimLeft(p.held, whiteSpace)
	switch {
	case p.structured:
		return p.startOfStructure()
	case p.format.begin != "":
		p.in = inText
	case trimmed == "":
		return false
	case trimmed[0] == '{':
		p.begin(len(p.held) - len(trimmed))
	default:
		p.in = inRest
	}
	return true
}

// startOfStructure tells calls from what else an answer may be by how they begin. Where a
// structure can begin alike the answer's end decides.
func (p *Parser) startOfStructure() bool {
	wait := false
	for _, beginning := range p.format.beginnings(p.offer) {
		if strings.HasPrefix(p.held, beginning) {
			p.live = p.format.begin != ""
			p.begin(0)
			return true
		}
		wait = wait || strings.HasPrefix(beginning, p.held)
	}
	if !wait {
		p.in = inRest
	}
	return !wait
}

// begin begins a call behind some white space.
func (p *Parser) begin(blank int) {
	p.in, p.blank = inCall, blank
	p.scan, p.current, p.told, p.sent = p.format.newScan(p.offer), 0, false, 0
}

// marker looks for the marker that begins a call. White space before it is no text of the
// answer: the template puts it there.
func (p *Parser) marker() bool {
	hold, first := 0, -1
	for _, marker := range p.format.markers {
		if i := strings.Index(p.held, marker); i >= 0 && (first < 0 || i < first) {
			first = i
		}
		hold = max(hold, overlap(p.held, marker))
	}
	before := p.held[:len(p.held)-hold]
	if first >= 0 {
		before = p.held[:first]
	}
	kept := len(strings.TrimRight(before, whiteSpace))
	p.say(p.held[:kept])
	p.held = p.held[kept:]
	if first >= 0 {
		p.begin(first - kept)
	}
	return first >= 0
}

// call scans on.
func (p *Parser) call() bool {
	text := p.held[p.blank:]
	state := p.scan.run(text)
	if p.live {
		p.stream(text)
	}
	switch state {
	case going:
		return false
	case bad:
		p.refuse(text)
		return true
	}
	if !p.live && !p.whole(text) {
		p.refuse(text)
		return true
	}
	p.held = p.held[p.blank+p.scan.length():]
	p.in, p.scan, p.blank = inText, nil, 0
	if p.format.begin == "" || p.offer.Single {
		p.in = inRest
	}
	return true
}

// refuse makes text of what was no call: of the marker alone where there is one, since a
// call may come behind it.
func (p *Parser) refuse(text string) {
	p.in = inRest
	n := len(p.held)
	for _, marker := range p.format.markers {
		if strings.HasPrefix(text, marker) {
			p.in, n = inText, p.blank+len(marker)
		}
	}
	if !p.live { // Or a constraint allows calls alone.
		p.say(p.held[:n])
	}
	p.held, p.blank, p.scan = p.held[n:], 0, nil
}

// incomplete is a call that the answer's end cuts off, which is all of the answer where calls
// have no marker.
func (p *Parser) incomplete(cut bool) {
	text := p.held[p.blank:]
	switch {
	case p.live:
	case p.scan.complete():
		if !p.whole(text) {
			return
		}
	case !cut || !p.begun(text):
		return
	default:
		p.stream(text)
	}
	p.held, p.cut = "", p.told // What is behind the arguments may be missing.
}

// begun reports whether what has come of calls that nothing constrains is the beginning of
// calls and of nothing else.
func (p *Parser) begun(text string) bool {
	last := p.scan.count() - 1
	for i := range last {
		if c, ok := p.scan.whole(text, i); !ok || !p.offer.offers(c.Name) {
			return false
		}
	}
	if last < 0 || p.offer.Single && p.calls+last > 0 {
		return false
	}
	name, _, ok := p.scan.head(text, last)
	return ok && p.offer.offers(name)
}

// stream hands on what has come of calls.
func (p *Parser) stream(text string) {
	for ; p.current < p.scan.count(); p.current, p.told, p.sent = p.current+1, false, 0 {
		if !p.told {
			name, id, ok := p.scan.head(text, p.current)
			if !ok || !p.offer.offers(name) {
				return // It has not come yet: the layout has the name first.
			}
			if p.text = nil; p.offer.takesText(name) {
				p.text = &textReader{}
			}
			p.out = append(p.out, Piece{Call: &Call{Index: p.calls, ID: p.idOf(id), Name: name, Text: p.text != nil}})
			p.calls++
			p.told = true
		}
		arguments, all := p.scan.arguments(text, p.current)
		come := arguments[p.sent:]
		p.sent = len(arguments)
		if p.text != nil {
			come = p.text.read(arguments)
		}
		if come != "" {
			p.out = append(p.out, Piece{Call: &Call{Index: p.calls - 1, Arguments: come, Text: p.text != nil}})
		}
		if !all {
			return
		}
	}
}

// idOf is the id of a call that a model has given one, which may be "".
func (p *Parser) idOf(id string) string {
	if !p.format.takes(id) || p.used[id] {
		id = p.format.newID()
	}
	p.used[id] = true
	return id
}

// whole hands on the calls of a complete scan, and reports whether they all are calls.
func (p *Parser) whole(text string) bool {
	var calls []Piece
	for i := range p.scan.count() {
		c, ok := p.scan.whole(text, i)
		if !ok || !p.offer.offers(c.Name) {
			return false
		}
		if c.Text = p.offer.takesText(c.Name); c.Text {
			var arguments map[string]string
			if json.Unmarshal([]byte(c.Arguments), &arguments) != nil || len(arguments) != 1 {
				return false
			}
			if c.Arguments, ok = arguments[textArgument]; !ok {
				return false
			}
		}
		c.Index = p.calls + len(calls)
		calls = append(calls, Piece{Call: &c})
	}
	if p.offer.Single && p.calls+len(calls) > 1 {
		return false
	}
	for _, piece := range calls {
		piece.Call.ID = p.idOf(piece.Call.ID)
	}
	p.calls += len(calls)
	p.out = append(p.out, calls...)
	return true
}
