package statustest

import (
	"strings"
	"testing"
)

func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    Message
		want string
	}{
		{"good", Message{Text: "Waiting for BaseModel tiny: Fetching: Fetching"}, ""},
		{"good, and somebody must act", Message{Stalled: true, Text: "The digest is another; correct spec.source.digest"}, ""},
		{"nothing", Message{}, "says nothing"},
		{"an end that is none", Message{Text: "Waiting for:"}, "end properly"},
		{"two lines", Message{Text: "a\nb"}, "end properly"},
		{"a verb without an argument", Message{Text: "%!s(MISSING) is there"}, "verb"},
		{"two ends", Message{Text: "It failed.. Try"}, `".."`},
		{"a struct", Message{Text: "was &v1.Job{}"}, "&v1"},
		{"given up and tried again", Message{Text: "it is tried again (given up after 4 failed pods)"}, "given up"},
		{"none of those that failed", Message{Text: "It is tried again (0 of 4 failed pods)"}, "none failed"},
		{"all are there", Message{Text: "1 of 1 pods are up to date"}, "not Ready for all"},
		{"it waits for what succeeded", Message{Text: "waiting for its next run: Succeeded: it is there"}, "succeeded"},
		{"nobody knows what to do", Message{Stalled: true, Text: "The digest is another"}, "how"},
		{"too long", Message{Text: strings.Repeat("x", 3000)}, "3000 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := strings.Join(Faults(tc.m), "; ")
			if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("faults %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPatternsOfFormats(t *testing.T) {
	for _, tc := range []struct {
		format, text string
		want         bool
	}{
		{"Job %s is being deleted", "Job math-1 is being deleted", true},
		{"Job %s is being deleted", "Job math-1 was deleted", false},
		{"; see kubectl logs %s -c %s", "status 2; see kubectl logs p -c train", true},
		{" (after %s)", "Iteration 3/40 (after 1 failed pod)", true},
	} {
		if got := pattern(tc.format).MatchString(tc.text); got != tc.want {
			t.Errorf("%q in %q: %v, want %v", tc.format, tc.text, got, tc.want)
		}
	}
}
