package server

import (
	"context"
	"time"

	"github.com/transformersquared/operator/runtime/adapt"
)

const (
	// mostSightings bounds how many requests wait for what a candidate would have chosen.
	mostSightings = 8
	// sightingLife bounds how long one waits and is chosen for, all in all.
	sightingLife = 10 * time.Second
)

// sighting is a request that the set has answered, for which a candidate is to choose, too.
type sighting struct {
	division *division
	subject  adapt.Request
	chosen   adapt.Decision
	seen     time.Time
	bytes    int64 // Of its texts, which count as those of bodies.
}

// see has the candidate choose for a request that has been answered. Where too many wait, or
// their texts have no room beside those of requests, it is left out.
func (s *Server) see(t target, subject adapt.Request, chosen adapt.Decision) {
	counts := t.division.counts
	see := sighting{division: t.division, subject: subject, chosen: chosen, seen: time.Now()}
	for _, turn := range subject.Turns {
		see.bytes += int64(len(turn))
	}
	const idBytes = 4
	see.bytes += int64(idBytes * len(subject.Prompt))
	if s.bodies.take(see.bytes) != nil {
		counts.dropped()
		return
	}
	select {
	case s.watching <- see:
	default:
		s.bodies.give(see.bytes)
		counts.dropped()
	}
}

// watch has candidates choose, for one request at a time, until ctx is done.
func (s *Server) watch(ctx context.Context) {
	for {
		select {
		case see := <-s.watching:
			s.chooseBeside(ctx, see)
			s.bodies.give(see.bytes)
		case <-ctx.Done():
			return
		}
	}
}

// chooseBeside has a candidate choose for a request. The engine computes it behind all requests;
// while some of these wait it is not begun at all, and it is given up when it takes too long.
func (s *Server) chooseBeside(ctx context.Context, see sighting) {
	counts := see.division.counts
	if now := s.division.Load(); now == nil || now.counts != counts {
		return // It is not the candidate any more.
	}
	c := s.core.Load()
	if c == nil || c.engine.Stats().Waiting > 0 || time.Since(see.seen) > sightingLife {
		counts.dropped()
		return
	}
	ctx, cancel := context.WithDeadline(ctx, see.seen.Add(sightingLife))
	defer cancel()
	ctx, leave := c.engine.Aside(ctx)
	defer leave()
	begun := time.Now()
	d, err := see.division.candidate.strategy.Decide(ctx, see.subject)
	switch {
	case ctx.Err() != nil:
		counts.dropped()
	case err != nil || d.Cause != nil:
		counts.failed()
	default:
		counts.compared(pair{see.chosen.Expert, d.Expert}, see.chosen.Differs(d), time.Since(begun))
	}
}
