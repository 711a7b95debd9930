// Command gate measures how long it takes from the change of an expert on the demo's
// cluster until a gate's verdict on the set with the new one, beside the same training and
// the same evaluation done by hand: t2 train and t2 evaluate on this machine, by the
// specifications that the Jobs had, on a copy of the volume. Both must come to the same
// expert.
//
//	make demo && kubectl apply -k config/samples/rollout
//	make bench-gate
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// options are the command's flags.
type options struct {
	kubectl, t2, inside       string
	namespace, expert, policy string
	rounds                    int
	seed                      int64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.kubectl, "kubectl", "kubectl", "kubectl, whose cluster KUBECONFIG names")
	flag.StringVar(&o.t2, "t2", "bin/t2", "the program that trains and evaluates by hand")
	flag.StringVar(&o.inside, "inside", "", "command before one that is to see the nodes' file system, such as t2cluster exec")
	flag.StringVar(&o.namespace, "namespace", "t2-demo", "namespace of the demo")
	flag.StringVar(&o.expert, "expert", "math", "ExpertVector that is changed")
	flag.StringVar(&o.policy, "policy", "gate-passes", "AdaptivePolicy whose gate has the expert")
	flag.IntVar(&o.rounds, "rounds", 3, "changes to measure")
	flag.Int64Var(&o.seed, "seed", time.Now().Unix(), "seed of the first change; each of the others has the next one")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 {
		return errors.New("--rounds must be positive, and there are no arguments")
	}
	var ratios []float64
	for round := range o.rounds {
		ratio, err := o.measure(ctx, o.seed+int64(round))
		if err != nil {
			return fmt.Errorf("change %d: %w", round+1, err)
		}
		ratios = append(ratios, ratio)
	}
	slices.Sort(ratios)
	fmt.Printf("median of %d: %.2f of the time by hand (wanted ≤ 1.3)\n", o.rounds, (ratios[(o.rounds-1)/2]+ratios[o.rounds/2])/2)
	return nil
}

// measure changes the expert once, and does the same by hand.
func (o options) measure(ctx context.Context, seed int64) (ratio float64, err error) {
	volume, err := os.MkdirTemp("", "t2-gate-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(volume)) }()
	c := cluster{o}
	if err := c.settled(ctx); err != nil {
		return 0, err
	}
	if err := c.copyVolume(ctx, volume); err != nil {
		return 0, err
	}
	applied := time.Now()
	v, err := c.change(ctx, seed)
	if err != nil {
		return 0, err
	}
	chain := v.when.Sub(applied)
	train, err := c.byHand(ctx, v.trainRun, "train", volume)
	if err != nil {
		return 0, err
	}
	if train.digest != v.expertDigest {
		return 0, fmt.Errorf("by hand it is the expert %s, and on the cluster %s", train.digest, v.expertDigest)
	}
	evaluate, err := c.byHand(ctx, v.evaluateRun, "evaluate", volume)
	if err != nil {
		return 0, err
	}
	hand := train.took + evaluate.took
	ratio = chain.Seconds() / hand.Seconds()
	fmt.Printf("seed %d: %s after %.1f s (containers %.1f + %.1f); by hand %.1f s (%.1f + %.1f): %.2f\n", seed, v.summary,
		chain.Seconds(), train.container.Seconds(), evaluate.container.Seconds(), hand.Seconds(), train.took.Seconds(), evaluate.took.Seconds(), ratio)
	return ratio, nil
}

// output runs a program and returns what it prints.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // Programs are named by flags.
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out, nil
}
