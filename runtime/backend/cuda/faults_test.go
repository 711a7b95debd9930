//go:build cuda

package cuda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transformersquared/operator/runtime/backend"
	"github.com/transformersquared/operator/runtime/sample"
)

// The software driver fails calls as these say; it reads them when the program starts,
// so that each failure is a process of its own.
const (
	envFail  = "SOFTCUDA_FAIL"
	envCalls = "SOFTCUDA_CALLS"
	// envExercise makes the test binary do the exercise of this name and nothing else.
	envExercise = "T2_CUDA_EXERCISE"
)

func TestMain(m *testing.M) {
	if os.Getenv(envExercise) == "" {
		os.Exit(m.Run())
	}
	do := exercise
	if os.Getenv(envExercise) == exerciseChoice {
		do = choose
	}
	if err := do(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

// exerciseChoice is the exercise of opening a device alone.
const exerciseChoice = "choice"

// choose opens a device, which chooses its kernels, and says what it chose.
func choose() error {
	// Everything takes too long to be measured again, so that each run makes the same calls
	// but for how often it asks whether a kernel has ended.
	patience, measured = 100*time.Millisecond, 0
	b, err := Open(Options{})
	if err != nil {
		return err
	}
	for _, f := range b.Describe() {
		fmt.Printf("%s: %s\n", f.Name, f.Value)
	}
	return b.Close()
}

// exercise uses every call of the driver that the backend makes, as a model does: it
// opens the device, loads weights, takes a step, repeats one, composes, differentiates,
// decomposes, and closes.
func exercise() (err error) {
	b, err := Open(Options{Hopper: Never}) // Choosing is another exercise.
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, f := range b.libraryFacts() {
		fmt.Printf("%s: %s\n", f.Name, f.Value)
	}
	const n, size = 20, 64
	data := make([]float32, n*size)
	for i := range data {
		data[i] = float32(i%7) - 3
	}
	buffers := map[string]backend.Buffer{}
	for _, name := range []string{"x", "y", "gain", "s"} {
		count := n * size
		if name == "gain" || name == "s" {
			count = size
		}
		if buffers[name], err = b.Alloc(backend.F32, count); err != nil {
			return err
		}
		if err := b.Upload(buffers[name], data[:count]); err != nil {
			return err
		}
	}
	const several = 9 << 20 / 4 // Pieces of pinned memory.
	large, err := b.Give(make([]float32, several))
	if err != nil {
		return err
	}
	if _, err := b.Take(large); err != nil {
		return err
	}
	x, y, gain, s := buffers["x"], buffers["y"], buffers["gain"], buffers["s"]
	tables, err := b.NewTables()
	if err != nil {
		return err
	}
	defer tables.Free()
	if err := tables.Set([]int32{3, 1, 2}); err != nil {
		return err
	}
	for _, kind := range backend.DTypes() {
		w, err := b.NewWeight(kind, size, size, slices.Repeat([]float32{0.5, -1}, size*size/2))
		if err != nil {
			return err
		}
		errs := []error{
			b.RMSNorm(y, x, gain, n, 1e-5),
			b.MatMul(n, backend.Product{Y: x, X: y, W: w, Scales: &backend.Scales{Bank: s}}),
			b.MatMulBackward(n, backend.Product{Y: y, X: x, W: w}),
			b.Compose(context.Background(), w, w, w, s),
			b.Copy(x, y), b.Zero(y), b.Add(y, x),
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	recorder := b.NewRecorder()
	defer recorder.Free()
	g, err := recorder.Record(func(b backend.Backend) error { return errors.Join(b.Add(y, x), b.Zero(x)) })
	if err != nil {
		return err
	}
	if err := errors.Join(g.Replay(), g.Replay()); err != nil {
		return err
	}
	g.Free()
	answers, err := b.Decide(y, n, []backend.Ask{{Draw: &sample.Draw{Temperature: 1, Uniform: 0.5}, Scores: []int32{1}, Logits: true}})
	if err != nil {
		return err
	}
	if answers[0].Err != nil && !errors.Is(answers[0].Err, sample.ErrNotFinite) {
		return answers[0].Err
	}
	if _, err := b.PolicyGradient(y, nil, make([]backend.Position, n), 0, 1); err != nil {
		return err
	}
	if _, err := b.Decompose(context.Background(), data[:n*(n+4)], n, n+4, backend.F32); err != nil {
		return err
	}
	got := make([]float32, n*size)
	if err := b.Download(got, x); err != nil {
		return err
	}
	b.Memory()
	return errors.Join(b.memory.releaseIdle(), b.Sync())
}

// run does the exercise in a process of its own.
func run(t *testing.T, env ...string) (output string, failed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(append(os.Environ(), envExercise+"=all"), env...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v: it hung:\n%s", env, out)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), err != nil
}

// TestEveryCallOfTheDriverMayFail lets each call that the exercise makes fail: its first
// time, in the middle, and its last. The error must be told, and nothing may hang, crash
// or be computed on.
func TestEveryCallOfTheDriverMayFail(t *testing.T) {
	calls := callsOf(t)
	const fewest = 20
	if len(calls) < fewest {
		t.Fatalf("%d entries are called: the exercise shows little: %v", len(calls), calls)
	}
	failEach(t, calls)
}

// TestEveryCallOfChoosingMayFail does so for what opening a device calls to choose its
// kernels. Where the device itself is well, that Hopper's are not used is told as a fact.
func TestEveryCallOfChoosingMayFail(t *testing.T) {
	onlyHopper(t, newTest(t))
	calls := callsOf(t, envExercise+"="+exerciseChoice)
	for _, name := range []string{"cuEventCreate", "cuEventRecord", "cuEventQuery", "cuEventElapsedTime", "cuEventDestroy_v2"} {
		if calls[name] == 0 {
			t.Errorf("%s is not called: %v", name, calls)
		}
	}
	// The others are those of the other exercise.
	maps.DeleteFunc(calls, func(name string, _ int) bool {
		return !strings.HasPrefix(name, "cuEvent") && !slices.Contains([]string{"cuLaunchKernel", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"}, name)
	})
	calls["cuEventQuery"] = 1 // How many there are is a matter of time.
	failEach(t, calls, envExercise+"="+exerciseChoice)
	const notUsed = "Hopper's kernels: not used: "
	for failure, want := range map[string]string{
		"cuModuleLoadData:%d:218":    notUsed + "kernels hopper: ",
		"cuFuncSetAttribute:%d:1":    notUsed + "kernels hopper: ",
		"cuModuleGetFunction:%d:500": notUsed + "kernels hopper: ",
		"cuLaunchKernel:%d:701":      notUsed + "compare composing ",
		"cuLaunchKernel:%d:700":      notUsed + "compare composing ", // On a context that is lost: there is another.
	} {
		name, _, _ := strings.Cut(failure, ":")
		last := fmt.Sprintf(failure, calls[name]) // The unit is loaded, and its kernels run, after all others.
		if output, failed := run(t, envExercise+"="+exerciseChoice, envFail+"="+last); failed || !strings.Contains(output, want) {
			t.Errorf("%s: want %q, got:\n%s", last, want, output)
		}
	}
	for failure, want := range map[string]string{
		"cuEventQuery:1:600:sticky": "a kernel has not ended after 100ms; with T2_HOPPER=never",
		"cuEventQuery:1:719:sticky": "with T2_HOPPER=never in the environment these kernels are not tried",
		"cuEventElapsedTime:1:2":    backend.ErrDeviceMemory.Error(),
		// The first events are those of copies, the last those that time.
		"cuEventCreate:1:999": "compare products by kernels hopper with their twins: new weight [100, 300]: cuEventCreate: ",
		fmt.Sprintf("cuEventCreate:%d:999", calls["cuEventCreate"]): "compare composing by kernels hopper with their twins: cuEventCreate: ",
	} {
		if output, failed := run(t, envExercise+"="+exerciseChoice, envFail+"="+failure); !failed || !strings.Contains(output, want) {
			t.Errorf("%s: want %q, got:\n%s", failure, want, output)
		}
	}
}

// callsOf returns how often an exercise calls each entry of the driver.
func callsOf(t *testing.T, env ...string) map[string]int {
	t.Helper()
	if !strings.Contains(newTest(t).info.name, "oftware") {
		t.Skip("the driver is a device's, which cannot be told to fail")
	}
	file := filepath.Join(t.TempDir(), "calls.json")
	if output, failed := run(t, append(env, envCalls+"="+file)...); failed {
		t.Fatal(output)
	}
	calls, err := readCalls(file)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(calls, func(_ string, count int) bool { return count == 0 })
	return calls
}

// readCalls reads what the driver has counted.
func readCalls(file string) (calls map[string]int, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(raw, &calls)
	return calls, err
}

// failEach lets calls fail in an exercise. How often memory is allocated, and so freed, is a
// matter of time, as an array is taken again once the device has done with it: a call that
// this time was not made has not failed, unless it is the first.
func failEach(t *testing.T, calls map[string]int, env ...string) {
	t.Helper()
	var failures []string
	for name, count := range calls {
		// What is asked for an error's text, or after the end, has nobody to tell.
		if slices.Contains([]string{"cuGetErrorName", "cuGetErrorString"}, name) {
			continue
		}
		for _, nth := range slices.Compact([]int{1, (count + 1) / 2, count}) {
			failures = append(failures, fmt.Sprintf("%s:%d:999", name, nth))
		}
	}
	slices.Sort(failures)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	const workers = 2
	for worker := range workers {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("calls-%d.json", worker))
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(failures) {
					mu.Unlock()
					return
				}
				failure := failures[next]
				next++
				mu.Unlock()
				output, failed := run(t, append(slices.Clone(env), envFail+"="+failure, envCalls+"="+file)...)
				name, nth, _ := strings.Cut(strings.TrimSuffix(failure, ":999"), ":")
				if !failed && nth != "1" {
					made, err := readCalls(file)
					n, bad := strconv.Atoi(nth)
					if err := errors.Join(err, bad); err != nil {
						t.Errorf("%s: %v", failure, err)
					} else if made[name] < n {
						t.Logf("%s: only %d were made", failure, made[name])
						continue
					}
				}
				switch {
				case strings.Contains(output, "panic") || strings.Contains(output, "SIG"):
					t.Errorf("%s crashed:\n%s", failure, output)
				case !failed && name != "cuMemGetInfo_v2" && !strings.Contains(output, "Hopper's kernels: not used"): // Where memory is not known it is 0.
					t.Errorf("%s: nobody was told:\n%s", failure, output)
				case failed && !strings.Contains(output, "error:"):
					t.Errorf("%s: the process ended without our sentence:\n%s", failure, output)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d failures of %d entries", len(failures), len(calls))
}

// TestErrorsSayWhatCanBeDone wants what somebody can do something about to be told by
// its kind.
func TestErrorsSayWhatCanBeDone(t *testing.T) {
	for failure, want := range map[string]string{
		"cuInit:1:100":              backend.ErrNoDevice.Error(),
		"cuMemAlloc_v2:1:2:sticky":  backend.ErrDeviceMemory.Error(),
		"cuModuleLoadData:1:222":    backend.ErrDeviceUnsupported.Error(),
		"cuModuleLoadData:1:218":    "kernels ",
		"cuLaunchKernel:3:700":      "new weight",
		"cuCtxCreate_v2:1:2":        backend.ErrDeviceMemory.Error(),
		"cuMemHostAlloc:2:2":        "may be pinned",
		"cuEventSynchronize:3:700":  backend.ErrDeviceLost.Error(),
		"cuStreamSynchronize:2:700": backend.ErrDeviceLost.Error(),
		"cuLaunchKernel:5:701":      "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
		"cuStreamSynchronize:1:719": "launch_fail",
	} {
		if output, failed := run(t, envFail+"="+failure); !failed || !strings.Contains(strings.ToLower(output), strings.ToLower(want)) {
			t.Errorf("%s: want an error with %q, got:\n%s", failure, want, output)
		}
	}
	for env, want := range map[string]string{
		"SOFTCUDA_DEVICES=0":        backend.ErrNoDevice.Error(),
		"SOFTCUDA_MEMORY=1048576":   backend.ErrDeviceMemory.Error(),
		"LD_LIBRARY_PATH=/nonexist": "no NVIDIA driver was found",
	} {
		if output, failed := run(t, env); !failed || !strings.Contains(output, want) {
			t.Errorf("%s: want an error with %q, got:\n%s", env, want, output)
		}
	}
}
