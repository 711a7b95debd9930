package upgrade

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"

	"github.com/transformersquared/operator/runtime/contract"
)

// envAsk has the policies that the clients ask, as NAME=URL, separated by commas.
const envAsk = "T2_UPGRADE_ASK"

const (
	// askEvery is the pace of each client: a request may take longer, and the next one
	// begins at once then.
	askEvery = 750 * time.Millisecond
	// patience is after how long a request without an end counts as lost.
	patience = 30 * time.Second
)

// Manners in which a policy is asked, a client for each.
const (
	keptOpen = "kept"     // One connection for all requests, as long as the server keeps it.
	fresh    = "fresh"    // A connection for each request.
	streamed = "streamed" // The same, answered in a stream.
)

// answer is what came of a request.
type answer struct {
	Policy string    `json:"policy"`
	Manner string    `json:"manner"`
	Sent   time.Time `json:"sent"`
	Done   time.Time `json:"done"`
	// Set is the expert set that answered, Expert what it chose.
	Set    string `json:"set"`
	Expert string `json:"expert"`
	// Pod is what HeaderPod says, which the runtime of before does not send.
	Pod string `json:"pod"`
	// Lost says why there is no answer.
	Lost string `json:"lost"`
}

// askAll asks until stdin ends, and writes an answer a line. It is a program of its
// own, whose exit status it returns.
func askAll(urls string, stdin io.Reader, stdout io.Writer) int {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, stdin)
	}()
	var mu sync.Mutex
	lines := json.NewEncoder(stdout)
	var clients sync.WaitGroup
	for target := range strings.SplitSeq(urls, ",") {
		policy, url, _ := strings.Cut(target, "=")
		for _, manner := range []string{keptOpen, fresh, streamed} {
			clients.Go(func() {
				askOne(ctx, policy, url, manner, func(a answer) {
					mu.Lock()
					defer mu.Unlock()
					if err := lines.Encode(a); err != nil {
						stop() // Nobody reads it any more.
					}
				})
			})
		}
	}
	clients.Wait()
	return 0
}

// askOne is one client of a policy, until ctx is done. A request that has begun ends.
func askOne(ctx context.Context, policy, url, manner string, tell func(answer)) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: manner != keptOpen}}
	pace := time.NewTicker(askEvery)
	defer pace.Stop()
	for {
		a := answer{Policy: policy, Manner: manner, Sent: time.Now()}
		if err := a.ask(client, url); err != nil {
			a.Lost = err.Error()
		}
		a.Done = time.Now()
		tell(a)
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
	}
}

func (a *answer) ask(client *http.Client, url string) error {
	body, err := json.Marshal(map[string]any{
		"model": a.Policy, "temperature": 0, "max_tokens": 24, "stream": a.Manner == streamed,
		"messages": []map[string]string{{"role": "user", "content": "What is 3 plus 4?"}},
	})
	if err != nil {
		return err
	}
	response, err := client.Post(url+contract.PathChatCompletions, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // It was read to its end.
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the answer, of which %q came: %w", text, err)
	}
	a.Pod = response.Header.Get(contract.HeaderPod)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	if a.Manner == streamed {
		return a.stream(string(text))
	}
	return a.chunk(text)
}

// stream reads a whole stream of events.
func (a *answer) stream(text string) error {
	ended := false
	for line := range strings.Lines(text) {
		data, isData := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		switch {
		case !isData:
		case data == "[DONE]":
			ended = true
		default:
			if err := a.chunk([]byte(data)); err != nil {
				return err
			}
		}
	}
	if !ended || a.Set == "" {
		return fmt.Errorf("the stream has no end, or does not say how it was adapted to: %q", text)
	}
	return nil
}

// chunk reads an answer, or an event of a stream.
func (a *answer) chunk(text []byte) error {
	var reply struct {
		Error json.RawMessage      `json:"error"`
		T2    *contract.Adaptation `json:"t2"`
	}
	if err := json.Unmarshal(text, &reply); err != nil {
		return fmt.Errorf("%w in %q", err, text)
	}
	if len(reply.Error) > 0 {
		return fmt.Errorf("an error: %s", reply.Error)
	}
	if reply.T2 != nil {
		a.Set, a.Expert = reply.T2.ExpertSetDigest, reply.T2.Expert
	} else if a.Manner != streamed {
		return fmt.Errorf("it does not say how it was adapted to: %q", text)
	}
	return nil
}

// clients ask in the cluster's network, and their answers are collected here.
type clients struct {
	mu      sync.Mutex
	answers []answer
	stops   []func()
	running errgroup.Group
}

// ask starts clients of policies, by name and URL, which ask until ended is called.
func (c *clients) ask(ctx context.Context, urls map[string]string) {
	GinkgoHelper()
	self, err := os.Executable()
	Expect(err).NotTo(HaveOccurred())
	var targets []string
	for policy, url := range urls {
		targets = append(targets, policy+"="+url)
	}
	words := append(strings.Fields(os.Getenv(envInside)), self)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), words[0], words[1:]...)
	cmd.Env = append(os.Environ(), envAsk+"="+strings.Join(targets, ","))
	cmd.Stderr = GinkgoWriter
	stdin, err := cmd.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	stdout, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	c.stops = append(c.stops, sync.OnceFunc(func() { _ = stdin.Close() }))
	c.running.Go(func() error {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var a answer
			if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
				a.Lost = fmt.Sprintf("%v in %q", err, lines.Text())
			}
			c.mu.Lock()
			c.answers = append(c.answers, a)
			c.mu.Unlock()
		}
		return cmd.Wait()
	})
}

// all are the answers so far.
func (c *clients) all() []answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.answers)
}

// ended stops the clients, waits until their last requests have an answer, and
// returns why they ended, if not for that.
func (c *clients) ended() error {
	for _, stop := range c.stops {
		stop()
	}
	return c.running.Wait()
}

// lost are the requests without an answer. Those that the version before loses are apart: a
// pod of it that drains closes connections that clients keep without saying so first, so that
// a request can meet the end of its connection. No later version can undo that.
func lost(answers []answer) (by, byBefore []string) {
	kept := map[string]answer{} // The last answer by the connection that each policy's client keeps.
	for _, a := range answers {
		if a.Lost == "" {
			if a.Manner == keptOpen {
				kept[a.Policy] = a
			}
			continue
		}
		text := fmt.Sprintf("%s to %s, %s, after %s: %s",
			a.Sent.Format(time.TimeOnly), a.Policy, a.Manner, a.Done.Sub(a.Sent).Round(time.Millisecond), a.Lost)
		last, there := kept[a.Policy]
		closed := strings.HasSuffix(a.Lost, ": EOF") || strings.HasSuffix(a.Lost, ": connection reset by peer")
		if a.Manner == keptOpen && there && last.version() == ofBefore && closed {
			byBefore = append(byBefore, text)
			delete(kept, a.Policy) // The next one is by another connection.
			continue
		}
		by = append(by, text)
	}
	return by, byBefore
}

// answeredBy counts the answers that were sent for since a moment, by policy, manner
// and the version of the runtime.
func answeredBy(answers []answer, since time.Time) map[string]int {
	counts := map[string]int{}
	for _, a := range answers {
		if a.Lost == "" && !a.Sent.Before(since) {
			counts[strings.Join([]string{a.Policy, a.Manner, a.version()}, " ")]++
		}
	}
	return counts
}

// Versions of the runtime, as answers tell them.
const (
	ofBefore = "before"
	ofNow    = "now"
)

func (a answer) version() string {
	if a.Pod == "" {
		return ofBefore
	}
	return ofNow
}
