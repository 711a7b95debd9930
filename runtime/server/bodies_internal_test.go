package server

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A body counts from its first byte until its answer has ended, whoever has announced how
// much; what does not fit beside others is refused with 429, and alone with 413.
func TestBodiesCountAsTheyCome(t *testing.T) {
	const limit, largest = 64 << 10, 16 << 10
	b := &bodies{limit: limit}
	answered := make(chan struct{})
	read := make(chan error, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := b.readWithin(w, r, largest)
		read <- err
		if err != nil {
			writeError(w, asAPIError(err))
			return
		}
		defer body.release()
		<-answered
		plain(w, http.StatusOK, string(body.bytes))
	}))
	defer server.Close()
	var closing []io.Closer
	defer func() {
		for _, c := range closing {
			_ = c.Close()
		}
	}()
	statuses := make(chan int, 8)
	post := func(text string, announced int64) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(text))
		if err != nil {
			t.Error(err)
			return
		}
		if announced > 0 {
			// The rest never comes.
			reader, writer := io.Pipe()
			closing = append(closing, writer)
			go func() { _, _ = io.WriteString(writer, text) }()
			r.Body, r.ContentLength = reader, announced
		}
		go func() {
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			statuses <- resp.StatusCode
		}()
	}
	post("little", largest)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if used := b.inUse(); used == firstBody {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a body that has begun counts nothing")
		}
	}
	post("x", largest+1)
	if err := <-read; !errors.As(err, new(*http.MaxBytesError)) {
		t.Errorf("one that is announced to be too large: %v", err)
	}
	if status := <-statuses; status != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", status)
	}
	for range 3 {
		post(strings.Repeat("x", largest), 0)
		if err := <-read; err != nil {
			t.Fatal(err)
		}
	}
	post(strings.Repeat("x", largest), 0)
	if err := <-read; !errors.Is(err, errBodies) {
		t.Errorf("one that does not fit beside others: %v", err)
	}
	if status := <-statuses; status != http.StatusTooManyRequests {
		t.Errorf("status %d, want 429", status)
	}
	close(answered)
	for range 3 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("status %d, want 200", status)
		}
	}
	closing[0].Close()
	if err := <-read; err == nil {
		t.Error("a body that ends too early was read")
	}
	// A client may have all of an answer before the handler has returned.
	server.Close()
	if used := b.inUse(); used != 0 {
		t.Errorf("%d bytes count when all have ended", used)
	}
}

// slow is a client that takes so many chunks and then no more.
type slow struct {
	http.ResponseWriter
	takes     int
	got       []byte
	deadlines []time.Time
}

func (s *slow) SetWriteDeadline(at time.Time) error {
	s.deadlines = append(s.deadlines, at)
	return nil
}

func (s *slow) Write(p []byte) (int, error) {
	if s.takes--; s.takes < 0 {
		return 0, os.ErrDeadlineExceeded
	}
	s.got = append(s.got, p...)
	return len(p), nil
}

// An answer that is not streamed goes in pieces, each of which has its time.
func TestWholeAnswersHaveDeadlines(t *testing.T) {
	text := slices.Repeat([]byte("abc"), chunkBytes)
	begun := time.Now()
	reads := &slow{ResponseWriter: httptest.NewRecorder(), takes: 3}
	if err := writeInTime(reads, text); err != nil || !slices.Equal(reads.got, text) || len(reads.deadlines) != 3 {
		t.Errorf("%d bytes in %d pieces: %v", len(reads.got), len(reads.deadlines), err)
	}
	for _, at := range reads.deadlines {
		if d := at.Sub(begun); d <= 0 || d > 2*writeTimeout {
			t.Errorf("a deadline in %v", d)
		}
	}
	stops := &slow{ResponseWriter: httptest.NewRecorder(), takes: 1}
	if err := writeInTime(stops, text); !errors.Is(err, errClientGone) || len(stops.got) != chunkBytes {
		t.Errorf("who stops to read after %d bytes: %v", len(stops.got), err)
	}
	stops.takes = 0
	if writeJSON(stops, http.StatusOK, "x"); len(stops.deadlines) != 3 {
		t.Errorf("%d deadlines, want one more", len(stops.deadlines))
	}
}
