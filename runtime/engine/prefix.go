package engine

// begins returns what a job's sequence begins with that another one may have in common
// with it, and the weights that compute it: all of it, or what its reader reads.
func (j *job) begins(sequence []int32) (writer key, tokens []int32) {
	if j.byReader > 0 {
		return j.reader.key, sequence[:min(j.byReader, len(sequence))]
	}
	return j.key, sequence
}

// wanted is begins of what the job has to read, but for its prompt's last token, whose
// logits are wanted.
func (j *job) wanted() (writer key, tokens []int32) { return j.begins(j.prompt[:len(j.prompt)-1]) }

// shared returns how many tokens of a job's prompt another one's begins with, if the
// same weights compute both, and how many of these are in the cache.
func (l *loop) shared(j, other *job) (common, there int) {
	writer, tokens := j.wanted()
	if by, has := other.begins(other.prompt); by == writer {
		common = alike(tokens, has)
	}
	return common, min(common, l.cache.Len(other.slot))
}

// foreseen is how many tokens a job will share with one that runs already.
func (l *loop) foreseen(j *job) int {
	most := 0
	for _, other := range l.running {
		if !other.ended {
			common, _ := l.shared(j, other)
			most = max(most, common)
		}
	}
	return most
}

// matchPrefix begins a prompt with what it has in common with one that is in the
// cache: of a running job, as all choices of a request have, or of one that has ended. It
// says that the job should wait if at least half of its prompt is about to come there by a
// job before it, which is read first, or by one that reads already, and so waits for nobody.
func (l *loop) matchPrefix(j *job) (wait bool, err error) {
	seq, shared, coming := 0, 0, 0
	behind := false
	for _, other := range l.running {
		if other == j {
			behind = true
			continue
		}
		if other.ended || behind && other.read == 0 {
			continue // Those behind it may wait for it.
		}
		common, there := l.shared(j, other)
		if there > shared {
			seq, shared = other.slot, there
		}
		coming = max(coming, common)
	}
	blocks, cached := l.prefixes.match(j.wanted())
	if l.worth(j, coming, max(shared, cached)) {
		return true, nil
	}
	switch {
	case cached == 0 && shared == 0:
		return false, nil
	case cached >= shared:
		err = l.cache.Adopt(j.slot, blocks, cached)
	default:
		err = l.cache.CopyPrefix(j.slot, seq, shared)
	}
	if err != nil {
		return false, err
	}
	j.read = max(cached, shared)
	j.work.found(j.read)
	l.engine.cachedTokens.Add(int64(j.read))
	return false, nil
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

// keep leaves to the prefix cache what a job that ends has in the key-value cache.
func (l *loop) keep(j *job) error {
	writer, tokens := j.begins(j.work.sequence(j)[:l.cache.Len(j.slot)])
	return l.prefixes.insert(writer, j.slot, tokens)
}
