package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/transformersquared/operator/kernels"
)

// machine is what a streaming multiprocessor of an architecture offers to blocks:
// table 15 of the CUDA C++ Programming Guide, and the granularities of NVIDIA's
// occupancy calculator.
type machine struct {
	arch   string
	target kernels.Target // The best that it runs.
	shared int            // Bytes for all blocks.
}

const (
	maxWarps       = 64
	maxBlocks      = 32
	partitions     = 4     // A warp lives in one of them.
	partitionRegs  = 16384 // Registers of a partition,
	regUnit        = 256   // given to a warp in such units.
	sharedReserved = 1024  // Bytes that the system takes of each block's shared memory.
	sharedUnit     = 128
)

var machines = []machine{
	{arch: "sm_80", target: kernels.SM80, shared: 164 << 10},
	{arch: "sm_90a", target: kernels.SM90a, shared: 228 << 10},
}

// warps returns how many warps are resident on a multiprocessor that runs blocks
// of a kernel.
func (m machine) warps(u usage, k kernels.Kernel) int {
	perBlock := (k.Threads + 31) / 32
	perWarp := roundUp(u.registers*32, regUnit)
	blocks := min(maxBlocks, maxWarps/perBlock, partitionRegs/perWarp*partitions/perBlock)
	if shared := u.shared + k.Shared; shared > 0 {
		blocks = min(blocks, m.shared/roundUp(shared+sharedReserved, sharedUnit))
	}
	return blocks * perBlock
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// usage is what ptxas says of an entry point.
type usage struct {
	entry                    string
	registers, spill, shared int // spill: bytes stored and loaded.
	stack                    int
}

var (
	entryLine    = regexp.MustCompile(`Compiling entry function '(\w+)'`)
	functionLine = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	usedLine     = regexp.MustCompile(`Used (\d+) registers`)
	sharedField  = regexp.MustCompile(`(\d+) bytes smem`)
)

// parsePtxas reads what ptxas -v prints.
func parsePtxas(text string) []usage {
	var all []usage
	for line := range strings.Lines(text) {
		if m := entryLine.FindStringSubmatch(line); m != nil {
			all = append(all, usage{entry: m[1]})
			continue
		}
		if len(all) == 0 {
			continue
		}
		u := &all[len(all)-1]
		if m := functionLine.FindStringSubmatch(line); m != nil {
			u.stack, u.spill = number(m[1]), number(m[2])+number(m[3])
		}
		if m := usedLine.FindStringSubmatch(line); m != nil {
			u.registers = number(m[1])
			if m := sharedField.FindStringSubmatch(line); m != nil {
				u.shared = number(m[1])
			}
		}
	}
	return all
}

// performanceLoss returns what ptxas says, as mere information, of wgmma that it could
// not leave asynchronous; "" where it says nothing.
func performanceLoss(text string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "Potential Performance Loss") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func number(digits string) int {
	n, _ := strconv.Atoi(digits) // Digits, by the expressions.
	return n
}

// measured is what ptxas says of all entry points, by architecture.
type measured map[string]map[string]usage

func (b builder) measure(ctx context.Context, outputs []output) (measured, error) {
	all := measured{}
	for _, m := range machines {
		all[m.arch] = map[string]usage{}
	}
	var mu sync.Mutex
	err := b.each(ctx, outputs, func(ctx context.Context, o output) error {
		for _, m := range machines {
			if o.target != kernels.SM80 && o.target != m.target {
				continue
			}
			out, err := b.tool(ctx, "ptxas", "-v", "-arch="+m.arch, "-o", os.DevNull, filepath.Join(kernels.Folder, o.name()))
			if err != nil {
				return err
			}
			if loss := performanceLoss(out); loss != "" {
				return fmt.Errorf("%s on %s: %s", o.name(), m.arch, loss)
			}
			mu.Lock()
			for _, u := range parsePtxas(out) {
				// Of two targets, the one that is chosen on this machine counts.
				if _, known := all[m.arch][u.entry]; !known || o.target == m.target {
					all[m.arch][u.entry] = u
				}
			}
			mu.Unlock()
		}
		return nil
	})
	return all, err
}

const (
	tableBegin = "<!-- ptxas: written by make ptxas -->\n"
	tableEnd   = "<!-- ptxas: end -->\n"
)

// ptxas writes or checks the table, and fails where a hot kernel spills.
func (b builder) ptxas(ctx context.Context, check bool) error {
	outputs, err := b.outputs()
	if err != nil {
		return err
	}
	if b.bin == "" {
		return errors.New("ptxas needs -toolkit FOLDER")
	}
	all, err := b.measure(ctx, outputs)
	if err != nil {
		return err
	}
	table, wrong := describe(all)
	readme := filepath.Join(b.folder, "README.md")
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(old, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !found || !ended {
		return fmt.Errorf("%s: no lines %q and %q, between which the table goes", readme, strings.TrimSpace(tableBegin), strings.TrimSpace(tableEnd))
	}
	text := slices.Concat(before, []byte(tableBegin+table+tableEnd), after)
	switch {
	case bytes.Equal(text, old):
	case check:
		wrong = append(wrong, readme+": the table of registers is not current: run make ptxas and commit it")
	default:
		if err := os.WriteFile(readme, text, 0o644); err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n  "))
	}
	return nil
}

// describe returns the table in Markdown, and what is wrong with the kernels.
func describe(all measured) (table string, wrong []string) {
	var t strings.Builder
	t.WriteString("| entry point | threads | shared memory, dynamic |")
	for _, m := range machines {
		fmt.Fprintf(&t, " %s: registers | static shared | spills | warps of %d |", m.arch, maxWarps)
	}
	t.WriteString("\n|---|---|---|" + strings.Repeat("---|---|---|---|", len(machines)) + "\n")
	for _, k := range kernels.All() {
		for _, entry := range k.Entries() {
			fmt.Fprintf(&t, "| `%s` | %d | %d |", entry, k.Threads, k.Shared)
			for _, m := range machines {
				u, ok := all[m.arch][entry]
				switch {
				case !ok && k.In(kernels.SM80):
					wrong = append(wrong, entry+": ptxas does not know it: the table in kernels/table.go names an entry point that no PTX has")
				case ok && u.spill > 0 && !k.Cold:
					wrong = append(wrong, fmt.Sprintf("%s: spills %d bytes of registers on %s", entry, u.spill, m.arch))
				}
				if !ok {
					t.WriteString(" – | – | – | – |")
					continue
				}
				fmt.Fprintf(&t, " %d | %d | %d | %d |", u.registers, u.shared, u.spill, m.warps(u, k))
			}
			t.WriteString("\n")
		}
	}
	return t.String(), wrong
}
