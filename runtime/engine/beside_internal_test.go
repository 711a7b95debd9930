package engine

import (
	"math"
	"testing"
)

// TestWhatIsAsideIsLast lines jobs up behind one that is aside: all go before it.
func TestWhatIsAsideIsLast(t *testing.T) {
	e := &Engine{}
	aside := &job{admission: &admission{arrived: math.MaxUint64, own: true}}
	early, late := &job{admission: &admission{arrived: 1}}, &job{admission: &admission{arrived: 2}}
	for _, j := range []*job{aside, late, early} {
		e.line(j)
	}
	if e.waiting[0] != early || e.waiting[1] != late || e.waiting[2] != aside {
		t.Errorf("the queue is %v", e.waiting)
	}
}
