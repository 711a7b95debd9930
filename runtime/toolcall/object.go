package toolcall

// member is a member of the object that is scanned: where it is in the text.
type member struct {
	key        string // As it is spelled, without quotes.
	begin, end int    // Of the value; end is 0 until it is complete.
}

// object scans a JSON object byte by byte: where it ends, and where its members' values are.
// It tells what cannot be JSON early, but not all of it: numbers, words and escapes are for
// json.Valid.
//
// Package constrain could read JSON, too: a grammar of any object is an automaton that tells at
// each byte whether one can follow. But its positions are sets of configurations under a lock,
// memoised within a bound and made for walking vocabularies, where this is a few branches a
// byte; it says nothing of where members lie, which is what is looked for here; and what it
// takes is what it writes (no white space but single blanks, numbers of 15 digits), where a
// model that nothing constrains writes any JSON. Each would be worse for serving both.
type object struct {
	start   int    // Where it begins in what is scanned; all else counts from there.
	at      int    // Bytes so far.
	stack   []byte // Open brackets.
	want    want
	escaped bool
	scalar  bool // Within a number or a word.
	begun   int  // Where the string of a key begins.
	members []member
	// anyBracket lets it be an array, too, which has no members.
	anyBracket bool
}

// want is what may come next.
type want int

const (
	wantValue want = iota
	wantFirst      // A value, or the end of the array.
	wantKey
	wantFirstKey // A key, or the end of the object.
	wantColon
	wantNext // A comma, or the end of what is open.
	inKey
	inString
)

// maxDepth bounds the nesting of a call.
const maxDepth = 128

// push takes the next byte, which is the one of text at o.at.
func (o *object) push(text string) status {
	c := text[o.at]
	o.at++
	if o.want == inKey || o.want == inString {
		return o.inside(c, text)
	}
	if o.scalar {
		switch {
		case isSpace(c) || c == ',' || c == '}' || c == ']':
			o.scalar = false
			o.valueEnds(o.at - 1)
		case c == '{' || c == '[' || c == '"' || c == ':' || c < ' ':
			return bad
		default:
			return going
		}
	}
	if isSpace(c) {
		return going
	}
	switch o.want {
	case wantColon:
		if c != ':' {
			return bad
		}
		o.want = wantValue
		return going
	case wantNext:
		return o.next(c)
	case wantKey, wantFirstKey:
		if c == '}' && o.want == wantFirstKey {
			return o.closes(c)
		}
		if c != '"' {
			return bad
		}
		o.want, o.begun = inKey, o.at
		return going
	default:
		return o.value(c)
	}
}

// inside takes a byte of a string.
func (o *object) inside(c byte, text string) status {
	switch {
	case c < ' ':
		return bad
	case o.escaped:
		o.escaped = false
	case c == '\\':
		o.escaped = true
	case c != '"':
	case o.want == inKey:
		if len(o.stack) == 1 {
			o.members = append(o.members, member{key: text[o.begun : o.at-1]})
		}
		o.want = wantColon
	default:
		o.valueEnds(o.at)
	}
	return going
}

// value takes the first byte of a value.
func (o *object) value(c byte) status {
	if c == ']' && o.want == wantFirst {
		return o.closes(c)
	}
	if len(o.stack) == 0 && c != '{' && (c != '[' || !o.anyBracket) {
		return bad
	}
	if o.atMember() {
		o.members[len(o.members)-1].begin = o.at - 1
	}
	switch c {
	case '{', '[':
		if len(o.stack) == maxDepth {
			return bad
		}
		o.stack = append(o.stack, c)
		if o.want = wantFirstKey; c == '[' {
			o.want = wantFirst
		}
	case '"':
		o.want = inString
	case ']', '}', ',', ':':
		return bad
	default:
		o.scalar = true
	}
	return going
}

// next takes what comes behind a value.
func (o *object) next(c byte) status {
	switch {
	case c != ',':
		return o.closes(c)
	case o.stack[len(o.stack)-1] == '{':
		o.want = wantKey
	default:
		o.want = wantValue
	}
	return going
}

// closes takes a closing bracket.
func (o *object) closes(c byte) status {
	top := len(o.stack) - 1
	if opened := o.stack[top]; opened == '{' && c != '}' || opened == '[' && c != ']' {
		return bad
	}
	o.stack = o.stack[:top]
	if top == 0 {
		return done
	}
	o.valueEnds(o.at)
	return going
}

// atMember reports whether a value is a member's of the object itself.
func (o *object) atMember() bool { return len(o.stack) == 1 && o.stack[0] == '{' }

func (o *object) valueEnds(at int) {
	if o.want = wantNext; o.atMember() {
		o.members[len(o.members)-1].end = at
	}
}

// last returns the member of this key; of several the last, as in JSON.
func (o *object) last(key string) (m member, ok bool) {
	for _, have := range o.members {
		if have.key == key {
			m, ok = have, true
		}
	}
	return m, ok
}
