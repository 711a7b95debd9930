package latex

import (
	"strings"
	"testing"
	"time"
)

func TestAnswersThatMeanTheSame(t *testing.T) {
	for _, pair := range [][2]string{
		{`\frac{1}{2}`, `\dfrac{1}{2}`}, {`\frac{1}{2}`, `\frac12`}, {`\frac{1}{2}`, `0.5`}, {`\frac{1}{2}`, `1/2`},
		{`\frac{1}{2}`, `.5`}, {`\frac{1}{2}`, `\frac 12`}, {`\frac{1}{2}`, `2/4`}, {`\frac{1}{3}`, `0.\overline{3}`},
		{`\frac{\sqrt{3}}{3}`, `\frac{1}{\sqrt{3}}`}, {`\frac{\sqrt{3}}{3}`, `sqrt(3)/3`}, {`2\sqrt{3}`, `\sqrt{12}`},
		{`1\frac{4}{5}`, `\frac95`}, {`1\frac{4}{5}`, `1 4/5`}, {`137 \frac{1}{2}`, `137.5`},
		{`5`, `x=5`}, {`x=5`, `5`}, {`y = 2x + 3`, `2x+3`}, {`y = 2x + 3`, `y = 3 + 2x`}, {`2x+3`, `f(x) = 2x + 3`},
		{`5x - 7y + 11z + 4 = 0`, `-10x + 14y - 22z = 8`},
		{`(3,4)`, `\left(3,4\right)`}, {`(3,4)`, `( 3 , 8/2 )`}, {`5`, `\$5`}, {`5`, `$5$`}, {`7`, `\fbox{7}`},
		{`10,\!080`, `10080`}, {`58,500`, `58500`}, {`58500`, `58{,}500`}, {`11,\! 111,\! 111,\! 100`, `11,111,111,100`},
		{`1,-2`, `-2, 1`}, {`1,-2`, `\{-2,1\}`}, {`1,-2`, `x=1 \text{ or } x=-2`}, {`1,-2`, `1 and -2`},
		{`100,200`, `200, 100`}, {`1 \pm \sqrt{19}`, `1+\sqrt{19}, 1-\sqrt{19}`}, {`\{1\pm\sqrt{5},-2\}`, `-2, 1-\sqrt5, 1+\sqrt5`},
		{`90^\circ`, `90`}, {`90^\circ`, `90°`}, {`90^{\circ}`, `90 degrees`}, {`\frac{270}7\text{ degrees}`, `\frac{270}{7}`},
		{`15\mbox{ cm}^2`, `15`}, {`864 \mbox{ inches}^2`, `864 square inches`}, {`5.4 \text{ cents}`, `5.4`},
		{`50\%`, `50`}, {`50\%`, `0.5`}, {`0.5`, `50%`}, {`50`, `50 percent`},
		{`x \in [-2,7]`, `[-2,7]`}, {`[-2,7]`, `-2 \le x \le 7`}, {`(5,\infty)`, `x > 5`}, {`(-\infty, 0]`, `x \leq 0`},
		{`(-\infty, 2) \cup (3, \infty)`, `(3,∞) ∪ (-∞,2)`}, {`(0,9) \cup (9,36)`, `(0,9)U(9,36)`},
		{`\text{Evelyn}`, `Evelyn`}, {`\text{(C)}`, `C`}, {`\text{(C)}`, `(C)`}, {`\text{even}`, `Even.`},
		{`52_8`, `52_{8}`}, {`6 - 5i`, `-5i+6`}, {`-1`, `i^2`}, {`\cot x`, `\cotx`}, {`\cot x`, `\frac{\cos x}{\sin x}`},
		{`(a+5)(b+2)`, `ab+2a+5b+10`}, {`x^8-1`, `(x^4-1)(x^4+1)`}, {`6r^2-4r-24`, `2(3r^2-2r-12)`},
		{`\frac{11+9a}{20}`, `(11+9a)/20`}, {`8 \pi`, `8π`}, {`\frac{20000}{\pi}`, `20000/pi`}, {`.0000672`, `6.72 \times 10^{-5}`},
		{`\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}`, `\begin{bmatrix}-\frac{1}{3}\\\frac23\end{bmatrix}`},
		{`\binom{5}{2}`, `10`}, {`120`, `5!`}, {`3`, `|-3|`}, {`3`, `\log_2 8`}, {`\log_{10} 2`, `\lg 2`}, {`9`, `9.0`}, {`2^{10}`, `1024`},
		{`\emptyset`, `\{\}`}, {`-\frac{1}{2}`, `\frac{-1}{2}`}, {`3\sqrt[3]{2}`, `\sqrt[3]{54}`}, {`x^{-1}`, `\frac1x`},
	} {
		if !Equal(pair[0], pair[1]) || !Equal(pair[1], pair[0]) {
			t.Errorf("%s and %s are not equal", pair[0], pair[1])
		}
	}
}

func TestAnswersThatDiffer(t *testing.T) {
	for _, pair := range [][2]string{
		{`\frac{1}{2}`, `\frac{1}{3}`}, {`\frac{1}{3}`, `0.3333333333333333`}, {`\sqrt{2}`, `1.41421`}, {`\pi`, `3.14`},
		{`(3,4)`, `(4,3)`}, {`(3,4)`, `[3,4]`}, {`(3,4]`, `(3,4)`}, {`1,-2`, `1,2`}, {`1,-2`, `1`}, {`\{1,1\}`, `\{1,2\}`},
		{`50\%`, `0.5\%`}, {`x=5`, `x=6`}, {`x=5`, `6`}, {`y = 2x`, `x = 2y`}, {`52_8`, `52_9`}, {`52_8`, `52`}, {`52_8`, `42`},
		{`2x+3`, `2x-3`}, {`x`, `|x|`}, {`x^2`, `x^3`}, {`6-5i`, `6+5i`}, {`\text{east}`, `seat`}, {`\text{even}`, `odd`}, {`ab`, `b`},
		{`\begin{pmatrix} 1 \\ 2 \end{pmatrix}`, `\begin{pmatrix} 2 \\ 1 \end{pmatrix}`},
		{`\begin{pmatrix} 1 & 2 \end{pmatrix}`, `\begin{pmatrix} 1 \\ 2 \end{pmatrix}`}, {`\begin{vmatrix} 1 \end{vmatrix}`, `\begin{pmatrix} 1 \end{pmatrix}`},
		{`(2,\infty)`, `(-\infty,2)`}, {`x>2`, `x \ge 2`}, {`1 \pm \sqrt{19}`, `1+\sqrt{19}`}, {`5!`, `5`}, {``, ``}, {`$$`, ``},
		{`x+y=1`, `x-y=1`}, {`x=x`, `y=y`}, {`100000000000000000001`, `100000000000000000002`}, {`\frac{1}{0}`, `\frac{2}{0}`},
		{`1,234`, `1234567`}, {`\sin x`, `\cos x`}, {`2k`, `2k+2`}, {`4`, `-4`}, {`\infty`, `-\infty`}, {`C`, `c`},
	} {
		if Equal(pair[0], pair[1]) || Equal(pair[1], pair[0]) {
			t.Errorf("%s and %s are equal", pair[0], pair[1])
		}
	}
}

func TestWhatIsTooMuchIsRefusedSoon(t *testing.T) {
	for name, s := range map[string]string{
		"a tower of powers":      "9" + strings.Repeat("^9", 400),
		"a tower in groups":      strings.Repeat("9^{", 60) + "9" + strings.Repeat("}", 60),
		"a huge factorial":       "99999999!!!!!!",
		"deep brackets":          strings.Repeat("(", 900) + "1" + strings.Repeat(")", 900),
		"deep roots":             strings.Repeat(`\sqrt{`, 300) + "2" + strings.Repeat("}", 300),
		"many signs":             strings.Repeat("-", 1900) + "1",
		"a long sum":             strings.Repeat("x+", 900) + "x",
		"a long product":         strings.Repeat("(x+1)", 300),
		"nested sets":            strings.Repeat(`\{1,2,`, 30) + "3" + strings.Repeat(`\}`, 30),
		"a long list":            strings.Repeat("x,", 63) + "y",
		"a long answer":          strings.Repeat("9", 100_000),
		"commands without end":   strings.Repeat(`\frac`, 300),
		"fractions of fractions": strings.Repeat(`\frac1`, 300) + "2",
	} {
		start := time.Now()
		if Equal(s, "17") || Equal("17", s) {
			t.Errorf("%s is 17", name)
		}
		Equal(s, s+"+1")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func FuzzEqual(f *testing.F) {
	for _, s := range []string{
		`\frac{1}{2}`, `x \in [-2,7]`, `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}`, `1 \pm \sqrt{19}`, `10,\!080`, `52_8`,
		`\{1\pm\sqrt{5},-2\}`, `|x|^2!%`, `\log_2 8`, `0.\overline{3}`, `$\left(3,4\right)$.`, `\text{(C)}`, "²√", `\`, `^`, `2/0`,
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if Normal(a) != "" && len(a) <= maxLength && !Equal(a, a) {
			t.Errorf("%q is not equal to itself", a)
		}
		if Equal(a, b) != Equal(b, a) {
			t.Errorf("%q and %q are equal one way only", a, b)
		}
		Valid(a)
	})
}
