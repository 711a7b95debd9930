package server

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// sameAs is a set as an operator of before digests were sent writes it, and its digest
// then.
const (
	sameAs = `{"strategy":"Prompt","experts":[{"name":"math","skill":"math","digest":"sha256:` +
		`1111111111111111111111111111111111111111111111111111111111111111"}],"fallback":"math"}`
	digestThen = "sha256:2dc68855d473065e50501c1052460d692867d52af0094b97f3c90559b48c300a"
)

// TestOperatorsOfOtherVersionsAreUnderstood, by the JSON that they send.
func TestOperatorsOfOtherVersionsAreUnderstood(t *testing.T) {
	called := contract.DigestPrefix + strings.Repeat("c", 64)
	with := func(members string) string { return strings.TrimSuffix(sameAs, "}") + "," + members + "}" }
	for _, tc := range []struct {
		name, text, digest string
		unknown            []string
	}{
		{name: "an older one, which sends no digest", text: sameAs, digest: digestThen},
		{name: "one that calls the set as the pod would", text: with(`"digest":"` + digestThen + `"`), digest: digestThen},
		{name: "a newer one, by whose rules the digest is another", text: with(`"digest":"` + called + `"`), digest: called},
		{
			name: "a newer one, which asks for what this runtime does not know", digest: called,
			text:    with(`"digest":"` + called + `","tomorrow":{"a":1},"probe":{"digest":"sha256:2","depth":3}`),
			unknown: []string{"probe.depth", "tomorrow"},
		},
		{
			name: "members of experts are named once", digest: called,
			text: `{"strategy":"Fixed","digest":"` + called + `","experts":[{"name":"a","mood":1},{"name":"b","mood":2}],` +
				`"classifier":{"name":"c","mood":3}}`,
			unknown: []string{"classifier.mood", "experts.mood"},
		},
		{name: "names in capitals are those that the decoder takes", text: `{"Strategy":"Prompt","digest":"` + called + `"}`, digest: called},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, err := parseSet([]byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			digest, err := set.Name()
			if err != nil || digest != tc.digest {
				t.Errorf("the set is called %s (%v), want %s", digest, err, tc.digest)
			}
			if !slices.Equal(set.Unknown, tc.unknown) {
				t.Errorf("unknown %q, want %q", set.Unknown, tc.unknown)
			}
			problem := notUnderstood(set)
			if (problem != nil) != (len(tc.unknown) > 0) {
				t.Errorf("problem %v", problem)
			}
			for _, name := range tc.unknown {
				if reason, permanent := failure.Of(problem); !strings.Contains(problem.Error(), name) || reason != contract.ReasonRuntimeTooOld || !permanent {
					t.Errorf("problem %v (%s, permanent %v) does not name %s", problem, reason, permanent, name)
				}
			}
		})
	}
}

// TestOlderPodsFindTheDigestThatIsSent: they decode what they know of the JSON, and find
// the digest of that by themselves.
func TestOlderPodsFindTheDigestThatIsSent(t *testing.T) {
	var set contract.ExpertSet
	if err := json.Unmarshal([]byte(sameAs), &set); err != nil {
		t.Fatal(err)
	}
	sent, err := set.Named()
	if err != nil {
		t.Fatal(err)
	}
	if sent.Called != digestThen {
		t.Errorf("sent as %s, an older pod finds %s", sent.Called, digestThen)
	}
	text, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := parseSet(text); err != nil || again.Called != sent.Called || len(again.Unknown) > 0 {
		t.Errorf("%s is read as %+v (%v)", text, again, err)
	}
}

// TestASetCalledByNoDigestIsRefused: it would stand in the status of objects.
func TestASetCalledByNoDigestIsRefused(t *testing.T) {
	set, err := parseSet([]byte(`{"strategy":"Fixed","experts":[],"digest":"latest"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := validSet(set); err == nil || !strings.Contains(err.Error(), `"latest"`) {
		t.Errorf("got %v", err)
	}
}

// TestMembersOfNoStructAreNobodysBusiness: maps take every name.
func TestMembersOfNoStructAreNobodysBusiness(t *testing.T) {
	type thing struct {
		Names map[string]int `json:"names"`
		Plain int
	}
	got := unknownMembers([]byte(`{"names":{"x":1},"plain":2,"more":3}`), reflect.TypeFor[thing]())
	if !slices.Equal(got, []string{"more"}) {
		t.Errorf("got %q", got)
	}
	if got := unknownMembers([]byte(`{`), reflect.TypeFor[thing]()); got != nil {
		t.Errorf("got %q of no JSON", got)
	}
}

// TestBitFlipsOfASet, of which every bit flips: what is no set is refused with its name, and what
// is another set has another digest, unless the operator has said what it is called, by rules that
// this runtime may not know. A digest in it that is none is refused, and one of nothing is told when it is
// not found. Nothing panics.
func TestBitFlipsOfASet(t *testing.T) {
	for _, text := range []string{sameAs, strings.TrimSuffix(sameAs, "}") + `,"digest":"` + digestThen + `"}`} {
		refused, others := 0, 0
		for bit := range 8 * len(text) {
			damaged := []byte(text)
			damaged[bit/8] ^= 1 << (bit % 8)
			set, err := parseSet(damaged)
			if err == nil {
				_, err = validSet(set)
			}
			if err != nil {
				refused++
				continue
			}
			if called, err := set.Name(); err != nil || called != digestThen || notUnderstood(set) != nil {
				others++
			}
		}
		if refused < len(text) || others == 0 {
			t.Errorf("of %d damages %d were refused, and %d make another set", 8*len(text), refused, others)
		}
	}
}
