package cpu

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// share is how a pool behaves beside other processes that want its processors. It asks
// the system, every now and then, how much of them this process got.
type share struct {
	threads int
	usage   func() (usage, bool)

	crowded atomic.Bool  // Others are on our processors: workers keep apart.
	yields  atomic.Bool  // They let others have theirs between tasks, too.
	resting atomic.Int64 // Workers that are not asked for help.

	runs     atomic.Int64
	sampling sync.Mutex // Guards what follows.
	sampled  time.Time
	had      usage
	until    time.Time // When one worker less may rest.
}

// usage is what the system has given this process, and taken from it.
type usage struct {
	processors time.Duration // Of all threads.
	suspended  int64         // Times that a processor was taken from a thread that would have gone on.
}

const (
	sampleTime = 50 * time.Millisecond
	sampleRuns = 64 // Runs between two looks at the clock.
	restTime   = 500 * time.Millisecond

	// What it takes, in processors on top of those of the other threads, to say that
	// the last thread has one to itself, and that it has any. Two threads of ours get
	// 1.9 to 2 alone, 1.33 beside one busy loop and 0.9 beside two.
	wholeWorker = 0.7
	anyWorker   = 0.1
	// A worker that adds nothing rests if the process is also suspended so often in a
	// sample's time: another runtime beside this one does that, which wants what it
	// wants when it wants it, and then both do better with a thread each. Busy loops
	// suspend it 7 to 15 times, and to rest would leave them our part.
	suspendedOften = 20
)

func newShare(threads int) *share {
	s := &share{threads: threads, usage: processUsage}
	s.crowded.Store(true) // Until it is known.
	return s
}

// sample is called for every run.
func (s *share) sample() {
	if s.threads == 1 || s.runs.Add(1)%sampleRuns != 0 || !s.sampling.TryLock() {
		return
	}
	defer s.sampling.Unlock()
	now := time.Now()
	since := now.Sub(s.sampled)
	if since < sampleTime {
		return
	}
	has, ok := s.usage()
	if !ok {
		return
	}
	had, first := s.had, s.sampled.IsZero()
	s.sampled, s.had = now, has
	if first {
		return
	}
	resting := s.resting.Load()
	got := (has.processors - had.processors).Seconds() / since.Seconds()
	nothing := got < float64(int64(s.threads)-resting-1)+anyWorker
	// To yield is to leave a processor to others for a time slice of theirs rather than
	// to be suspended in the middle of a task, for which everybody waits. Where all
	// processors are wanted the caller is suspended anyway.
	s.yields.Store(!nothing)
	// To keep apart comes before to rest: that our threads share one processor makes
	// them suspend each other.
	apart := s.crowded.Swap(got < float64(s.threads-1)+wholeWorker)
	often := has.suspended-had.suspended >= suspendedOften*int64(since/sampleTime)
	switch squeezed := apart && nothing && often; {
	case squeezed && resting < int64(s.threads)-1:
		resting++
	case !squeezed && resting > 0 && now.After(s.until):
		resting--
	default:
		return
	}
	s.resting.Store(resting)
	s.until = now.Add(restTime)
}

// processUsage asks the system.
func processUsage() (usage, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return usage{}, false
	}
	return usage{processors: time.Duration(u.Utime.Nano() + u.Stime.Nano()), suspended: u.Nivcsw}, true
}
