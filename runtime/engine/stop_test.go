package engine

import "testing"

func TestStopperHoldsBackWhatMayBecomeAStopText(t *testing.T) {
	for name, c := range map[string]struct {
		stops, pieces []string
		want          string
		stopped       bool
	}{
		"no stops":                       {nil, []string{"a", "b"}, "ab", false},
		"across pieces":                  {[]string{"END"}, []string{"so E", "N", "D more"}, "so ", true},
		"a beginning that leads nowhere": {[]string{"END"}, []string{"E", "N", "T"}, "ENT", false},
		"the earliest of several":        {[]string{"c", "ab"}, []string{"xab c"}, "x", true},
		"a repeated beginning":           {[]string{"aab"}, []string{"a", "a", "a", "b"}, "a", true},
		"held to the end":                {[]string{"\n\n"}, []string{"line\n"}, "line\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := stopper{texts: c.stops}
			got, stopped := "", false
			for _, p := range c.pieces {
				var text string
				text, stopped = s.push(p)
				if got += text; stopped {
					break
				}
			}
			if !stopped {
				got += s.rest()
			}
			if got != c.want || stopped != c.stopped {
				t.Errorf("got %q (stopped %v), want %q (%v)", got, stopped, c.want, c.stopped)
			}
		})
	}
}

func FuzzStopper(f *testing.F) {
	f.Add("hello END world", "END", uint8(3))
	f.Add("aaaab", "aab", uint8(1))
	f.Fuzz(func(t *testing.T, text, stop string, size uint8) {
		if stop == "" || size == 0 {
			return
		}
		s := stopper{texts: []string{stop}}
		got, stopped := "", false
		for rest := text; rest != "" && !stopped; {
			n := min(int(size), len(rest))
			var piece string
			piece, stopped = s.push(rest[:n])
			got, rest = got+piece, rest[n:]
		}
		if !stopped {
			got += s.rest()
		}
		want := text
		found := false
		for i := 0; i+len(stop) <= len(text) && !found; i++ {
			if text[i:i+len(stop)] == stop {
				want, found = text[:i], true
			}
		}
		if got != want || stopped != found {
			t.Errorf("text %q, stop %q by %d: %q, want %q", text, stop, size, got, want)
		}
	})
}
