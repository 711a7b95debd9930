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

	came  strings.Builder
	held  string // The end of came that is not decided: white space, the beginning of a marker, a call.
	blank int    // How much of held is the white space before a call.
	in    place
	scan  *scan // nil outside of calls.
	calls int   // Handed on, the one that is being written included.
	used  map[string]bool
	// Of a call that is handed on as it is written: the object of scan that it is, and how
	// much of its arguments has been.
	current, sent int
	cut           bool
	out           []Piece
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
	p := &Parser{format: f, offer: o, used: map[string]bool{}}
	p.live = o.constrained() && (!structured || o.demands())
	if len(o.Functions) == 0 {
		p.in = inRest
	}
	return p
}

// Calls returns how many calls there have been so far.
func (p *Parser) Calls() int { return p.calls }

// Cut reports whether the last call's arguments end too early. It is known once Flush has been
// called; only calls that are handed on as they are written can be cut.
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

// Flush says that no more comes.
func (p *Parser) Flush() []Piece {
	if p.in == inCall {
		p.incomplete()
	}
	switch {
	case p.live && (p.calls > 0 || p.offer.demands()): // The beginning of a call.
	case p.calls == 0 || strings.TrimSpace(p.held) != "":
		p.text(p.held)
	}
	p.held, p.in = "", inRest
	return p.take()
}

func (p *Parser) take() []Piece {
	out := p.out
	p.out = nil
	return out
}

func (p *Parser) text(text string) {
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
		p.text(p.held)
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

// start looks at how an answer begins: where calls have no marker one is all of the answer.
func (p *Parser) start() bool {
	if p.format.begin != "" {
		p.in = inText
		return true
	}
	switch trimmed := strings.TrimLeft(p.held, " \n\t\r"); {
	case trimmed == "":
		return false
	case trimmed[0] == '{':
		p.begin(len(p.held) - len(trimmed))
	default:
		p.in = inRest
	}
	return true
}

// begin begins a call behind some white space.
func (p *Parser) begin(blank int) {
	p.in, p.blank = inCall, blank
	p.scan, p.current, p.sent = &scan{family: &p.format.family}, 0, 0
}

// marker looks for the marker that begins a call. White space before it is no text of the
// answer: the template puts it there.
func (p *Parser) marker() bool {
	marker := p.format.begin
	if i := strings.Index(p.held, marker); i >= 0 {
		kept := len(strings.TrimRight(p.held[:i], " \n\t\r"))
		p.text(p.held[:kept])
		p.held = p.held[kept:]
		p.begin(i - kept)
		return true
	}
	hold := 0
	for n := min(len(marker)-1, len(p.held)); n > 0; n-- {
		if strings.HasSuffix(p.held, marker[:n]) {
			hold = n
			break
		}
	}
	kept := len(strings.TrimRight(p.held[:len(p.held)-hold], " \n\t\r"))
	p.text(p.held[:kept])
	p.held = p.held[kept:]
	return false
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
		p.refuse(len(p.format.begin))
		return true
	}
	if !p.live && !p.whole(text) {
		p.refuse(len(p.format.begin))
		return true
	}
	p.held = p.held[p.blank+p.scan.at:]
	p.in, p.scan, p.blank = inText, nil, 0
	if p.format.begin == "" || p.offer.Single {
		p.in = inRest
	}
	return true
}

// refuse makes text of what was no call: of the marker alone where there is one, since a
// call may come behind it.
func (p *Parser) refuse(marker int) {
	p.in = inText
	if p.format.begin == "" {
		marker, p.in = len(p.held)-p.blank, inRest
	}
	n := p.blank + marker
	if p.live {
		p.held = p.held[n:] // Never: a constraint allows calls alone.
	} else {
		p.text(p.held[:n])
		p.held = p.held[n:]
	}
	p.blank, p.scan = 0, nil
}

// incomplete is a call that the answer's end cuts off, which is all of the answer where calls
// have no marker.
func (p *Parser) incomplete() {
	p.cut = p.sent > 0 // What is behind the arguments may be missing.
	if p.live || p.scan.complete() && p.whole(p.held[p.blank:]) {
		p.held = ""
	}
}

// stream hands on what has come of calls.
func (p *Parser) stream(text string) {
	for ; p.current < len(p.scan.objects); p.current, p.sent = p.current+1, 0 {
		o := p.scan.objects[p.current]
		m, ok := o.last(p.format.arguments)
		if !ok || m.begin == 0 {
			return
		}
		raw := text[o.start:]
		if p.sent == 0 {
			name, ok := o.last("name")
			c := Call{Index: p.calls, ID: p.format.newID()}
			if !ok || name.end == 0 || json.Unmarshal([]byte(raw[name.begin:name.end]), &c.Name) != nil || !p.offer.offers(c.Name) {
				return // Never: the layout has the name first.
			}
			p.calls++
			p.out = append(p.out, Piece{Call: &c})
			p.sent = m.begin
		}
		upTo := m.end
		if upTo == 0 {
			upTo = o.at
		}
		if upTo > p.sent {
			p.out = append(p.out, Piece{Call: &Call{Index: p.calls - 1, Arguments: raw[p.sent:upTo]}})
			p.sent = upTo
		}
		if m.end == 0 {
			return
		}
	}
}

// whole hands on the calls of a complete scan, and reports whether they all are calls.
func (p *Parser) whole(text string) bool {
	var calls []Piece
	for _, o := range p.scan.objects {
		c, ok := p.read(text, o)
		if !ok {
			return false
		}
		c.Index = p.calls + len(calls)
		calls = append(calls, Piece{Call: &c})
	}
	if p.offer.Single && p.calls+len(calls) > 1 {
		return false
	}
	p.calls += len(calls)
	p.out = append(p.out, calls...)
	return true
}

// read reads a call.
func (p *Parser) read(text string, o *object) (Call, bool) {
	raw := text[o.start : o.start+o.at]
	if !json.Valid([]byte(raw)) {
		return Call{}, false
	}
	var got struct {
		Name string `json:"name"`
		ID   any    `json:"id"`
	}
	if json.Unmarshal([]byte(raw), &got) != nil || !p.offer.offers(got.Name) {
		return Call{}, false
	}
	c := Call{Name: got.Name, Arguments: "{}", ID: p.format.newID()}
	if id, _ := got.ID.(string); p.format.takes(id) && !p.used[id] {
		c.ID = id // Mistral's models write ids.
	}
	p.used[c.ID] = true
	m, ok := o.last("arguments")
	if other, has := o.last("parameters"); has && (!ok || p.format.arguments == "parameters") {
		m, ok = other, true
	}
	if !ok {
		return c, true // Of a function without parameters.
	}
	c.Arguments = raw[m.begin:m.end]
	return c, c.Arguments[0] == '{'
}
