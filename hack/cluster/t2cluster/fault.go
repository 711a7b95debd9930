package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/fault"
)

func faultCommand() command {
	return command{
		name:    "fault",
		args:    " VERB PART",
		summary: "Break a part of a running cluster, or mend it.",
		detail: `A part is a component, as t2cluster status names it, or a node with all that runs on it, such as node-2.

  kill, start      a component ends without warning, and is started again. A node loses its power, its
                   link first, so that nobody hears of anything that ends there; then it boots
  stop, continue   a component is held: it takes connections and answers nothing
  cut, join        a node is off the network, and all of it runs on

start waits until the part works again. Node 1 has the control plane, so that only its components can be broken.`,
		example: "t2cluster fault kill node-2\nt2cluster fault start node-2\nt2cluster fault stop kube-apiserver",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			timeout := flags.Duration("timeout", defaultTimeout, "give up after this `time`")
			return func(ctx context.Context, e env, args []string) error {
				if len(args) != 2 {
					return usagef("want a verb and a part, got %d words", len(args))
				}
				return w.fault(ctx, e, fault.Verb(args[0]), args[1], *timeout)
			}
		},
	}
}

func (w *which) fault(ctx context.Context, e env, verb fault.Verb, part string, timeout time.Duration) error {
	c, err := w.existing(e)
	if err != nil {
		return err
	}
	target, err := fault.Find(c, part)
	if err != nil {
		return usagef("%v", err)
	}
	unlock, err := lock(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("gave up after %s", timeout))
	defer cancel()
	if err := target.Do(ctx, verb, e.stderr); errors.Is(err, fault.ErrUsage) {
		return usagef("%v", err)
	} else if err != nil {
		return err
	}
	return nil
}
