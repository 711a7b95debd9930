package torch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Opcodes of pickles: those of protocol 2, which torch.save uses, and of 4 and 5.
const (
	opMark            = '('
	opStop            = '.'
	opBinFloat        = 'G'
	opBinInt          = 'J'
	opBinInt1         = 'K'
	opBinInt2         = 'M'
	opNone            = 'N'
	opBinPersID       = 'Q'
	opReduce          = 'R'
	opBinUnicode      = 'X'
	opEmptyList       = ']'
	opAppend          = 'a'
	opBuild           = 'b'
	opGlobal          = 'c'
	opAppends         = 'e'
	opBinGet          = 'h'
	opLongBinGet      = 'j'
	opBinPut          = 'q'
	opLongBinPut      = 'r'
	opSetItem         = 's'
	opTuple           = 't'
	opSetItems        = 'u'
	opEmptyTuple      = ')'
	opEmptyDict       = '}'
	opProto           = 0x80
	opTuple1          = 0x85
	opTuple2          = 0x86
	opTuple3          = 0x87
	opNewTrue         = 0x88
	opNewFalse        = 0x89
	opLong1           = 0x8a
	opShortBinUnicode = 0x8c
	opStackGlobal     = 0x93
	opMemoize         = 0x94
	opFrame           = 0x95
)

// Bounds of a run. A tensor takes about thirty instructions.
const (
	maxInstructions = 1 << 20
	maxProtocol     = 5
)

// machine follows a pickle. Each instruction takes at least a byte and makes at most
// one value, and values are not copied, so that memory is bounded by the program.
type machine struct {
	program []byte
	at      int
	stack   []any
	marks   []int
	memo    map[uint32]any
	resolve func(id any) (*storage, error)
}

// unpickle returns what a pickle describes. resolve turns persistent ids into
// storages.
func unpickle(program []byte, resolve func(id any) (*storage, error)) (any, error) {
	m := &machine{program: program, memo: map[uint32]any{}, resolve: resolve}
	for range maxInstructions {
		begin := m.at
		op, err := m.bytes(1)
		if err == nil {
			if op[0] == opStop {
				return m.result()
			}
			err = m.step(op[0])
		}
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", begin, err)
		}
	}
	return nil, fmt.Errorf("has more than %d instructions", maxInstructions)
}

func (m *machine) result() (any, error) {
	if len(m.stack) != 1 || len(m.marks) > 0 {
		return nil, fmt.Errorf("ends with %d values, where one should be", len(m.stack))
	}
	return m.stack[0], nil
}

// step follows one instruction.
func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		return m.protocol()
	case opFrame:
		_, err := m.bytes(8) // How far to read ahead.
		return err
	case opMark:
		m.marks = append(m.marks, len(m.stack))
		return nil
	case opNone, opNewTrue, opNewFalse, opBinInt, opBinInt1, opBinInt2, opLong1, opBinFloat, opBinUnicode, opShortBinUnicode:
		v, err := m.scalar(op)
		return m.pushed(v, err)
	case opEmptyTuple:
		return m.push(tuple{})
	case opEmptyList:
		return m.push(&list{})
	case opEmptyDict:
		return m.push(newDict())
	case opTuple, opTuple1, opTuple2, opTuple3:
		return m.tuple(op)
	case opAppend, opAppends:
		return m.extend(op == opAppends)
	case opSetItem, opSetItems:
		return m.update(op == opSetItems)
	case opBinPut, opLongBinPut, opMemoize, opBinGet, opLongBinGet:
		return m.remember(op)
	case opGlobal, opStackGlobal:
		return m.global(op)
	case opReduce:
		return m.reduce()
	case opBuild:
		return m.build()
	case opBinPersID:
		return m.persistent()
	default:
		return fmt.Errorf("instruction 0x%02x is none that a dict of tensors needs: it is not followed", op)
	}
}

func (m *machine) protocol() error {
	v, err := m.bytes(1)
	if err == nil && (v[0] < 2 || v[0] > maxProtocol) {
		err = fmt.Errorf("has protocol %d; 2 to %d are read", v[0], maxProtocol)
	}
	return err
}

// bytes takes the next n bytes of the program.
func (m *machine) bytes(n int) ([]byte, error) {
	if n < 0 || n > len(m.program)-m.at {
		return nil, errors.New("the pickle is truncated")
	}
	b := m.program[m.at : m.at+n]
	m.at += n
	return b, nil
}

func (m *machine) push(v any) error {
	m.stack = append(m.stack, v)
	return nil
}

func (m *machine) pushed(v any, err error) error {
	if err != nil {
		return err
	}
	return m.push(v)
}

var errEmpty = errors.New("takes a value from an empty stack")

// floor is the height of the stack below which values belong to an open mark.
func (m *machine) floor() int {
	if n := len(m.marks); n > 0 {
		return m.marks[n-1]
	}
	return 0
}

// pop takes the last n values.
func (m *machine) pop(n int) ([]any, error) {
	from := len(m.stack) - n
	if from < m.floor() {
		return nil, errEmpty
	}
	values := m.stack[from:]
	m.stack = m.stack[:from]
	return values, nil
}

// popMark takes the values since the last mark.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, errors.New("takes values since a mark that was not set")
	}
	from := m.floor()
	m.marks = m.marks[:len(m.marks)-1]
	values := m.stack[from:]
	m.stack = m.stack[:from]
	return values, nil
}

// top returns the last value without taking it.
func (m *machine) top() (any, error) {
	if len(m.stack) <= m.floor() {
		return nil, errEmpty
	}
	return m.stack[len(m.stack)-1], nil
}

// scalar reads a value that is written out in the program.
func (m *machine) scalar(op byte) (any, error) {
	switch op {
	case opNone:
		return nil, nil
	case opNewTrue, opNewFalse:
		return op == opNewTrue, nil
	case opBinFloat:
		b, err := m.bytes(8)
		if err != nil {
			return nil, err
		}
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	case opBinUnicode, opShortBinUnicode:
		return m.text(op)
	case opLong1:
		return m.long()
	}
	widths := map[byte]int{opBinInt1: 1, opBinInt2: 2, opBinInt: 4}
	b, err := m.bytes(widths[op])
	if err != nil {
		return nil, err
	}
	switch op {
	case opBinInt1:
		return int64(b[0]), nil
	case opBinInt2:
		return int64(binary.LittleEndian.Uint16(b)), nil
	default:
		return int64(int32(binary.LittleEndian.Uint32(b))), nil
	}
}

// count reads a length of 1 or 4 bytes.
func (m *machine) count(long bool) (uint32, error) {
	if !long {
		b, err := m.bytes(1)
		if err != nil {
			return 0, err
		}
		return uint32(b[0]), nil
	}
	b, err := m.bytes(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (m *machine) text(op byte) (any, error) {
	n, err := m.count(op == opBinUnicode)
	if err != nil {
		return nil, err
	}
	if n > maxPickle {
		return nil, errors.New("the pickle is truncated")
	}
	b, err := m.bytes(int(n))
	if err != nil {
		return nil, err
	}
	return string(b), nil
}

// long reads an integer of up to 8 bytes, little-endian in two's complement.
func (m *machine) long() (any, error) {
	n, err := m.count(false)
	if err != nil {
		return nil, err
	}
	b, err := m.bytes(int(n))
	if err != nil {
		return nil, err
	}
	if n > 8 {
		return nil, fmt.Errorf("has an integer of %d bytes", n)
	}
	v := int64(0)
	for i, digit := range b {
		v |= int64(digit) << (8 * i)
	}
	if n > 0 && n < 8 && b[n-1]&0x80 != 0 {
		v -= 1 << (8 * n)
	}
	return v, nil
}

func (m *machine) tuple(op byte) error {
	var values []any
	var err error
	if op == opTuple {
		values, err = m.popMark()
	} else {
		values, err = m.pop(int(op-opTuple1) + 1)
	}
	if err != nil {
		return err
	}
	return m.push(tuple(slices.Clone(values)))
}

func (m *machine) extend(many bool) error {
	values, err := m.popArguments(many, 1)
	if err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	l, ok := v.(*list)
	if !ok {
		return fmt.Errorf("appends to %s", kind(v))
	}
	l.items = append(l.items, values...)
	return nil
}

func (m *machine) update(many bool) error {
	values, err := m.popArguments(many, 2)
	if err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok || len(values)%2 != 0 {
		return fmt.Errorf("sets %d keys and values of %s", len(values), kind(v))
	}
	for i := 0; i < len(values); i += 2 {
		if err := d.set(values[i], values[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// popArguments takes the values since the last mark, or the last n.
func (m *machine) popArguments(marked bool, n int) ([]any, error) {
	if marked {
		return m.popMark()
	}
	return m.pop(n)
}

// remember stores the last value, or brings a stored one back.
func (m *machine) remember(op byte) error {
	key := uint32(len(m.memo))
	if op != opMemoize {
		var err error
		if key, err = m.count(op == opLongBinPut || op == opLongBinGet); err != nil {
			return err
		}
	}
	if op == opBinGet || op == opLongBinGet {
		v, ok := m.memo[key]
		if !ok {
			return fmt.Errorf("recalls value %d, which was not stored", key)
		}
		return m.push(v)
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	m.memo[key] = v
	return nil
}

// global reads a name of something in a Python module.
func (m *machine) global(op byte) error {
	var g global
	if op == opGlobal {
		for _, part := range []*string{&g.module, &g.name} {
			rest := m.program[m.at:]
			end := slices.Index(rest, '\n')
			if end < 0 {
				return errors.New("the pickle is truncated")
			}
			*part = string(rest[:end])
			m.at += end + 1
		}
	} else {
		names, err := m.pop(2)
		if err != nil {
			return err
		}
		var okModule, okName bool
		g.module, okModule = names[0].(string)
		g.name, okName = names[1].(string)
		if !okModule || !okName {
			return errors.New("names something by what is no string")
		}
	}
	if !known(g) {
		return fmt.Errorf("needs %q, which is not allowed: a dict of tensors needs %s and storages of numbers", g.String(), allowed())
	}
	return m.push(g)
}

// allowed lists the names that a pickle may call.
func allowed() string {
	names := make([]string, 0, len(callables))
	for g := range callables {
		names = append(names, g.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// reduce stands for a call.
func (m *machine) reduce() error {
	values, err := m.pop(2)
	if err != nil {
		return err
	}
	g, ok := values[0].(global)
	if !ok || callables[g] == nil {
		return fmt.Errorf("calls %s", kind(values[0]))
	}
	args, ok := values[1].(tuple)
	if !ok {
		return fmt.Errorf("calls %s with %s, where a tuple should be", g, kind(values[1]))
	}
	v, err := callables[g](args)
	return m.pushed(v, err)
}

// build drops the Python attributes of a dict: state_dict() has one, _metadata, with
// versions of modules.
func (m *machine) build() error {
	if _, err := m.pop(1); err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	if _, ok := v.(*dict); !ok {
		return fmt.Errorf("sets the attributes of %s", kind(v))
	}
	return nil
}

// persistent resolves a reference to a storage.
func (m *machine) persistent() error {
	values, err := m.pop(1)
	if err != nil {
		return err
	}
	s, err := m.resolve(values[0])
	return m.pushed(s, err)
}
