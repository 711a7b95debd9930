package main

import (
	"bufio"
	"bytes"
	stdcontext "context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transformersquared/operator/runtime/contract"
)

// What clients ask, in tokens: of the tokenizer here one is a byte.
const (
	shortestPrompt, longestPrompt = 64, 1024
	longestAnswer                 = 200
	servedExperts                 = 8

	// servedContext is what servers have room for, of each client's.
	servedContext = 1280
)

// systemPrompts are the lengths of those that requests share, whose prompt has room for it
// and a question.
var systemPrompts = []int{40, 96, 240, 480}

const leastQuestion = 24

// request is what a client asks.
type request struct {
	prompt string
	tokens int // Of the answer.
	expert int // That it is pinned to, and that a probe should find.
}

// madeUp are n requests, the same for each server: lengths are as likely to double as to
// halve.
func madeUp(n int, seed uint64) []request {
	r := rand.New(rand.NewPCG(seed, 9)) //nolint:gosec // The same numbers each time.
	between := func(least, most int) int {
		return int(math.Round(math.Exp(math.Log(float64(least)) + r.Float64()*math.Log(float64(most)/float64(least)))))
	}
	systems := make([]string, len(systemPrompts))
	for i, length := range systemPrompts {
		systems[i] = words(rand.New(rand.NewPCG(uint64(i), 10)), length) //nolint:gosec // Likewise.
	}
	list := make([]request, n)
	for i := range list {
		length := between(shortestPrompt, longestPrompt)
		fitting := 0
		for fitting < len(systems) && len(systems[fitting])+leastQuestion <= length {
			fitting++
		}
		system := systems[r.IntN(fitting)]
		q := request{tokens: between(1, longestAnswer), expert: r.IntN(servedExperts)}
		q.prompt = system + asked(r, length-len(system), q.expert)
		list[i] = q
	}
	return list
}

// asked is a question of so many letters. The last one says which expert it is for.
func asked(r *rand.Rand, length, expert int) string {
	return words(r, length-1) + markOf(expert)
}

// words is a text of so many letters and spaces.
func words(r *rand.Rand, length int) string {
	var b strings.Builder
	for b.Len() < length {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		for range 2 + r.IntN(7) {
			b.WriteByte(byte('a' + r.IntN(26)))
		}
	}
	return b.String()[:length]
}

// traffic is what clients do to a server.
type traffic struct {
	url     string // Of completions.
	clients int
	limit   time.Duration
	model   func(request) string
}

// tally is what they saw.
type tally struct {
	Seconds float64
	// Done are answered in full; the others were refused, cut short or too late.
	Done, Failed int
	Tokens       int // Of answers.
	// First is the time to the first token of each that is done, Between the times between two
	// chunks of a stream, in seconds. Both are sorted.
	First, Between []float64 `json:"-"`
	// Quantiles are theirs: the median and the 99th percentile.
	FirstToken, BetweenTokens quantiles
	// Chosen counts answers by the expert that the server says it chose.
	Chosen map[string]int `json:",omitempty"`
	// Why is the first failure.
	Why string `json:",omitempty"`
}

type quantiles struct{ P50, P99 float64 }

// quantilesOf sorted figures.
func quantilesOf(sorted []float64) quantiles {
	return quantiles{percentile(sorted, 50), percentile(sorted, 99)}
}

// percentile is the least of the sorted figures that p percent do not exceed: none that was
// not measured. Of no figures it is NaN.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[max(0, int(math.Ceil(p/100*float64(len(sorted))))-1)]
}

// perSecond is how many requests were done in a second.
func (t *tally) perSecond() float64 { return float64(t.Done) / t.Seconds }

// answer is what one client saw of a stream.
type answer struct {
	first   float64
	between []float64
	tokens  int
	expert  string
}

// run asks all questions, so many at a time, each by a connection of its own: servers close
// idle ones as they like, which is no matter of this.
func (l traffic) run(ctx stdcontext.Context, list []request) *tally {
	ctx, cancel := stdcontext.WithTimeout(ctx, l.limit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	answers, failures := make([]answer, len(list)), make([]error, len(list))
	var next atomic.Int64
	var all sync.WaitGroup
	begun := time.Now()
	for range l.clients {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				answers[i], failures[i] = l.ask(ctx, client, list[i])
			}
		})
	}
	all.Wait()
	return tallied(time.Since(begun), answers, failures)
}

// tallied adds up what clients saw.
func tallied(took time.Duration, answers []answer, failures []error) *tally {
	t := &tally{Seconds: took.Seconds(), Chosen: map[string]int{}}
	for i, a := range answers {
		if failures[i] != nil {
			if t.Failed++; t.Why == "" {
				t.Why = failures[i].Error()
			}
			continue
		}
		t.Done++
		t.Tokens += a.tokens
		t.First, t.Between = append(t.First, a.first), append(t.Between, a.between...)
		if a.expert != "" {
			t.Chosen[a.expert]++
		}
	}
	slices.Sort(t.First)
	slices.Sort(t.Between)
	if t.Done > 0 {
		t.FirstToken = quantilesOf(t.First)
	}
	if len(t.Between) > 0 {
		t.BetweenTokens = quantilesOf(t.Between)
	}
	return t
}

// ask sends one request and reads its stream.
func (l traffic) ask(ctx stdcontext.Context, client *http.Client, q request) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"model": l.model(q), "prompt": q.prompt, "max_tokens": q.tokens, "temperature": 0, "ignore_eos": true,
		"stream": true, "stream_options": map[string]any{"include_usage": true},
	})
	if err != nil {
		return answer{}, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	post.Header.Set("Content-Type", "application/json")
	sent := time.Now()
	response, err := client.Do(post)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }() // It was read, or is given up.
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 300)) // For people.
		return answer{}, fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return readStream(response.Body, sent, q.tokens)
}

// maxLine bounds a line of a stream.
const maxLine = 1 << 20

// readStream reads server-sent events of completions. Chunks are looked at as bytes: what a
// client does is done on the processors that the server computes with.
func readStream(r io.Reader, sent time.Time, want int) (answer, error) {
	var a answer
	var last time.Time
	chunks := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		switch {
		case !ok:
			continue
		case bytes.Equal(data, []byte("[DONE]")):
			if a.tokens == 0 {
				a.tokens = chunks // Of who does not say.
			}
			if a.tokens != want {
				return a, fmt.Errorf("%d tokens, want %d", a.tokens, want)
			}
			return a, nil
		case bytes.HasPrefix(data, []byte(`{"error"`)):
			return a, fmt.Errorf("the stream ended with %s", data)
		}
		if said, ok := textOf(data); ok && len(said) > 0 {
			now := time.Now()
			if chunks++; chunks == 1 {
				a.first = now.Sub(sent).Seconds()
			} else {
				a.between = append(a.between, now.Sub(last).Seconds())
			}
			last = now
		}
		if err := a.end(data); err != nil {
			return a, err
		}
	}
	return a, errors.Join(lines.Err(), errors.New("the stream ended before it was done"))
}

// textOf finds the text of a chunk.
func textOf(data []byte) ([]byte, bool) {
	_, rest, ok := bytes.Cut(data, []byte(`"text":"`))
	if !ok {
		return nil, false
	}
	text, _, _ := bytes.Cut(rest, []byte(`"`)) // Escapes do not matter: is it empty?
	return text, true
}

// end takes what only the last chunks have.
func (a *answer) end(data []byte) error {
	if !bytes.Contains(data, []byte(`"usage":{`)) && !bytes.Contains(data, []byte(`"`+contract.AdaptationField+`":{`)) {
		return nil
	}
	var chunk struct {
		Usage *struct {
			Tokens int `json:"completion_tokens"`
		} `json:"usage"`
		Adaptation *contract.Adaptation `json:"t2"`
	}
	if err := json.Unmarshal(data, &chunk); err != nil {
		return fmt.Errorf("a chunk of the stream: %w", err)
	}
	if chunk.Usage != nil {
		a.tokens = chunk.Usage.Tokens
	}
	if chunk.Adaptation != nil {
		a.expert = chunk.Adaptation.Expert
	}
	return nil
}
