//go:build cuda

package cuda

import (
	"math"
	"strings"
	"testing"

	"github.com/transformersquared/operator/kernels"
	"github.com/transformersquared/operator/runtime/backend"
)

// onlyHopper leaves a test on devices that have no such kernels, and says whether the
// driver is the one in software, whose kinds of product have the same bits.
func onlyHopper(t *testing.T, b *Backend) (software bool) {
	t.Helper()
	if (b.info.capability != kernels.Capability{Major: 9}) {
		if b.twins.products != nowhere || b.twins.composing != nowhere || len(b.twins.facts) > 0 {
			t.Errorf("%s: %+v", b.Name(), b.twins)
		}
		t.Skipf("these kernels are for compute capability 9.0; this device has %s", b.info.capability)
	}
	return strings.Contains(b.info.name, "oftware")
}

// told returns what Describe says of a kind of kernels.
func told(b *Backend, what string) string {
	for _, f := range b.Describe() {
		if f.Name == "Hopper's "+what {
			return f.Value
		}
	}
	return ""
}

// results are a product of many rows, a backward one, and a composed weight.
func results(t *testing.T, b *Backend) (all [][]float32) {
	t.Helper()
	const n, out, in, rank = largeRows + 3, 70, 100, 130
	newWeight := func(rows, columns int, seed uint64) backend.Weight {
		w, err := b.NewWeight(backend.BF16, rows, columns, numbers(rows*columns, seed))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	rows := func(count int, seed uint64) backend.Buffer {
		x, err := b.probeRows(count, seed)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	w, other, x, back, s := newWeight(out, in, 1), newWeight(out+1, in, 2), rows(n*in, 3), rows(n*in, 4), rows(rank, 5)
	y, second := rows(n*out, 6), rows(n*(out+1), 7)
	bank := &backend.Scales{Bank: rows(in, 8)}
	products := []backend.Product{{Y: y, X: x, W: w, Scales: bank, Add: true}, {Y: second, X: x, W: other, Scales: bank}}
	if err := b.MatMul(n, products...); err != nil {
		t.Fatal(err)
	}
	if err := b.MatMulBackward(n, backend.Product{Y: back, X: y, W: w}); err != nil {
		t.Fatal(err)
	}
	if err := b.Compose(t.Context(), w, newWeight(out, rank, 9), newWeight(rank, in, 10), s); err != nil {
		t.Fatal(err)
	}
	for _, buf := range []backend.Buffer{y, second, back} {
		data := make([]float32, buf.Len())
		if err := b.Download(data, buf); err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	data, err := b.WeightData(w)
	if err != nil {
		t.Fatal(err)
	}
	return append(all, data)
}

func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// TestHoppersKernelsComputeWhatTheOthersDo compares a backend that uses them with one
// that does not.
func TestHoppersKernelsComputeWhatTheOthersDo(t *testing.T) {
	own, other := openTest(t, Options{Hopper: Always}, kernels.Load), openTest(t, Options{Hopper: Never}, kernels.Load)
	software := onlyHopper(t, own)
	t.Logf("products: %s", told(own, "products"))
	t.Logf("composing: %s", told(own, "composing"))
	if software && (own.twins.products != everywhere || own.twins.composing != everywhere) {
		t.Fatalf("on the software driver both have the bits of their twins: %+v", own.twins)
	}
	if told(other, "products") != "" || other.kernelFor(opTurn, backend.F32, backend.BF16, plain).function != nil {
		t.Errorf("Never loads them: %v", other.Describe())
	}
	before := own.launches.Load()
	got, want := results(t, own), results(t, other)
	t.Logf("%d launches, without them %d", own.launches.Load()-before, other.launches.Load())
	for i := range want {
		if exact := i < len(want)-1 || own.twins.composing == everywhere; exact && !sameBits(got[i], want[i]) {
			t.Errorf("result %d has other bits", i)
		}
	}
	if !own.Capabilities().RowInvariant {
		t.Error("rows do not depend on their neighbours, and Capabilities says they do")
	}
}

// altered gives the shipped PTX of Hopper's kernels with a change.
func altered(t *testing.T, change func(text string) string) loader {
	t.Helper()
	return func(unit string, c kernels.Capability) (kernels.Module, error) {
		m, err := kernels.Load(unit, c)
		if text := change(m.Text); err == nil && text != m.Text {
			m.Text = text
		} else if err == nil {
			t.Fatal("the change changes nothing")
		}
		return m, err
	}
}

// swapped exchanges the operands of each two products that follow each other, so that a
// block of 32 columns is summed in another order.
func swapped(text string) string {
	lines := strings.Split(text, "\n")
	for i := 1; i < len(lines); i++ {
		if strings.HasPrefix(lines[i], "wgmma.mma_async") && strings.HasPrefix(lines[i-1], "wgmma.mma_async") {
			lines[i-1], lines[i] = lines[i], lines[i-1]
			i++
		}
	}
	return strings.Join(lines, "\n")
}

// TestWrongHopperKernelsAreNotUsed: the check at opening sees what is not as it should be,
// and says so; everything works without.
func TestWrongHopperKernelsAreNotUsed(t *testing.T) {
	plain := openTest(t, Options{Hopper: Never}, kernels.Load)
	if !onlyHopper(t, openTest(t, Options{Hopper: Always}, kernels.Load)) {
		t.Skip("a device's sums may not depend on what is altered here")
	}
	want := results(t, plain)
	for name, c := range map[string]struct {
		change              func(string) string
		products, composing trust
		told                string
	}{
		"another sign":        {func(s string) string { return strings.ReplaceAll(s, ", 1, 1, 1, 0;", ", 1, -1, 1, 0;") }, nowhere, nowhere, "not used: their results are not those"},
		"another order":       {swapped, nowhere, whereAlone, "other last bits"},
		"a barrier too early": {func(s string) string { return strings.ReplaceAll(s, ", 129;", ", 128;") }, nowhere, nowhere, "not used: compare products by kernels hopper with their twins: the device is lost"},
		"not PTX":             {func(s string) string { return strings.Replace(s, "wgmma.fence", "wgmma.hence", 1) }, nowhere, nowhere, "not used: kernels hopper: "},
		"an entry is missing": {func(s string) string { return strings.ReplaceAll(s, "turn_bf16", "turned_bf16") }, nowhere, nowhere, "not used: kernels hopper: turn_bf16"},
	} {
		t.Run(name, func(t *testing.T) {
			b := openTest(t, Options{Hopper: Always}, altered(t, c.change))
			if b.twins.products != c.products || b.twins.composing != c.composing {
				t.Errorf("%+v", b.twins)
			}
			var all []string
			for _, f := range b.Describe() {
				all = append(all, f.Name+": "+f.Value)
			}
			if text := strings.Join(all, "\n"); !strings.Contains(text, c.told) {
				t.Errorf("no fact says %q:\n%s", c.told, text)
			}
			got := results(t, b)
			for i := range want {
				if exact := i < len(want)-1 || c.composing != whereAlone; exact && !sameBits(got[i], want[i]) {
					t.Errorf("result %d has other bits", i)
				}
			}
		})
	}
}

// TestSlowHopperKernelsAreNotUsed wants the measurement to decide, unless it is told not to.
func TestSlowHopperKernelsAreNotUsed(t *testing.T) {
	for _, c := range []struct {
		comparison
		choice Choice
		want   trust
		told   string
	}{
		{comparison{what: "products", trust: everywhere, own: 1000, other: 2500}, WhenFaster, everywhere, "used: 2.50 times as fast as the kernels for every device, to the bit"},
		{comparison{what: "products", trust: everywhere, own: 1000, other: 900}, WhenFaster, nowhere, "not used: 0.90 times as fast"},
		{comparison{what: "products", trust: everywhere, own: 1000, other: 900}, Always, everywhere, "used: 0.90 times as fast"},
		{comparison{what: "products", trust: whereAlone, own: 1000, other: 2500}, WhenFaster, whereAlone, "a row's are not to depend on how many there are"},
		{comparison{what: "composing", trust: whereAlone, own: 1000, other: 2500}, WhenFaster, whereAlone, "used: 2.50 times as fast as the kernels for every device, with other last bits"},
		{comparison{what: "composing", trust: nowhere, error: 0.5, own: 1000, other: 2500}, Always, nowhere, "(normalised mean square error 0.5)"},
	} {
		if got := c.decide(c.choice); got != c.want || !strings.Contains(c.tell(c.choice), c.told) {
			t.Errorf("%+v: %v, %q", c, got, c.tell(c.choice))
		}
	}
	b := openTest(t, Options{}, kernels.Load)
	onlyHopper(t, b)
	if b.twins.fewest < b.info.processors/2 {
		t.Errorf("a product of %d tiles is taken, on %d multiprocessors", b.twins.fewest, b.info.processors)
	}
	b.twins.products = everywhere // Whatever was measured.
	for _, c := range []struct {
		n    int
		w    matrix
		want bool
	}{
		{largeRows, matrix{kind: backend.BF16, rows: 1024}, false},
		{4096, matrix{kind: backend.BF16, rows: 4096}, true},
		{largeRows - 1, matrix{kind: backend.BF16, rows: 1 << 20}, false},
		{4096, matrix{kind: backend.Int8, rows: 4096}, false},
	} {
		if got := b.byGroups(c.n, &c.w); got != c.want {
			t.Errorf("%d rows by %d outputs of %s: %v", c.n, c.w.rows, c.w.kind, got)
		}
	}
	for _, what := range []string{"products", "composing"} {
		if !strings.Contains(told(b, what), "times as fast") {
			t.Errorf("%s: %q", what, told(b, what))
		}
	}
}

func TestTheChoiceOfTheEnvironment(t *testing.T) {
	for value, want := range map[string]Choice{"": WhenFaster, "auto": WhenFaster, "always": Always, "never": Never} {
		if got, err := ChoiceOf(value); got != want || err != nil {
			t.Errorf("%q is %v, %v", value, got, err)
		}
	}
	if _, err := ChoiceOf("yes"); err == nil || !strings.Contains(err.Error(), `T2_HOPPER="yes": it is one of auto, always and never`) {
		t.Errorf("%v", err)
	}
}
