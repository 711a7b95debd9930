package engine

// common returns how many tokens of a job's prompt are those that others begin
// with: at most all but its last one, whose logits are wanted.
func (j *job) common(tokens []int32) int {
	n, most := 0, min(len(j.prompt)-1, len(tokens))
	for n < most && j.prompt[n] == tokens[n] {
		n++
	}
	return n
}

// shared returns how many tokens of a job's prompt another one's begins with, if the
// same weights compute both, and how many of these are in the cache.
func (l *loop) shared(j, other *job) (common, there int) {
	if other.variant == j.variant {
		common = j.common(other.prompt)
	}
	return common, min(common, l.cache.Len(other.slot))
}

// matchPrefix begins a prompt with what it has in common with one that is in the
// cache: of a running job, as all choices of a request have, or, for pass 1, one of
// the prefix cache. It says that the job should wait if enough of its prompt is about to
// come there by a job before it. That costs no time: the one before is read first.
func (l *loop) matchPrefix(j *job) (wait bool, err error) {
	seq, shared := 0, 0
	if _, scoring := j.work.(*scoring); scoring {
		seq, shared = l.prefixes.match(j)
	}
	coming := 0
	for _, other := range l.running {
		if other == j {
			break // Those behind it may wait for it.
		}
		if other.ended {
			continue
		}
		common, there := l.shared(j, other)
		if there > shared {
			seq, shared = other.slot, there
		}
		coming = max(coming, common)
	}
	if l.worth(j, coming, shared) {
		return true, nil
	}
	return false, l.begin(j, seq, shared)
}

// worth reports whether a job should wait for so many tokens of its prompt, of which
// some are there: for half of it, where each answer is wanted soon. Where all are
// wanted, for a quarter more than is there: less would divide the reading into too many
// steps.
func (l *loop) worth(j *job, coming, there int) bool {
	if coming <= there {
		return false
	}
	return 2*coming >= len(j.prompt) || l.engine.o.Patient && 4*(coming-there) >= len(j.prompt)
}

// handOver gives those who wait for the prompt of a job that ends what has been
// read of it, before its blocks are free.
func (l *loop) handOver(from *job) {
	for _, j := range l.running {
		if j.ended || j.read > 0 {
			continue
		}
		_, there := l.shared(j, from)
		if !l.worth(j, there, 0) {
			continue // It may find more.
		}
		if err := l.begin(j, from.slot, there); err != nil {
			l.fail(j, err)
		}
	}
}

// begin makes the first n tokens of a sequence those of a job's prompt.
func (l *loop) begin(j *job, seq, n int) error {
	if n == 0 {
		return nil
	}
	if err := l.cache.CopyPrefix(j.slot, seq, n); err != nil {
		return err
	}
	j.read = n
	l.engine.cachedTokens.Add(int64(n))
	return nil
}
