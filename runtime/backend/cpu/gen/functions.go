package main

// vectorFuncs are the vector kernels.
var vectorFuncs = []vectorFunc{
	{
		name: "axpy", doc: "computes y += alpha·x.",
		pointers: []string{"y", "x"}, floats: []string{"alpha"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.broadcast("alpha+16(FP)", 0)
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), a.r(1, h))
					a.p("VFMADD231PS %s, %s, %s", a.at("SI", "DX", h), a.r(0, h), a.r(1, h))
					a.p("VMOVUPS %s, %s", a.r(1, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "mul", doc: "computes y = a·b.",
		pointers: []string{"y", "a", "b"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(0, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(0, h), a.r(0, h))
					a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "mulScaled", doc: "computes y = a·alpha·b.",
		pointers: []string{"y", "a", "b"}, floats: []string{"alpha"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.broadcast("alpha+24(FP)", 1)
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMULPS %s, %s, %s", a.at("SI", "DX", h), a.r(1, h), a.r(0, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(0, h), a.r(0, h))
					a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "dot", doc: "returns Σ a·b.",
		pointers: []string{"a", "b"}, ints: []string{"n"}, result: "sum",
		body: func(a *assembler) {
			a.each(func(h int) { a.clear(a.r(0, h)) })
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), a.r(1, h))
					a.p("VFMADD231PS %s, %s, %s", a.at("SI", "DX", h), a.r(1, h), a.r(0, h))
				})
			})
			a.fold("VADDPS", 0, 1)
		},
	},
	{
		name: "maximum", doc: "returns the largest element.",
		pointers: []string{"a"}, ints: []string{"n"}, result: "top",
		body: func(a *assembler) {
			a.each(func(h int) { a.p("VMOVUPS %s, %s", constant("infinity"), a.r(0, h)) })
			a.loop(func() {
				a.each(func(h int) { a.p("VMAXPS %s, %s, %s", a.at("DI", "DX", h), a.r(0, h), a.r(0, h)) })
			})
			a.fold("VMAXPS", 0, 1)
		},
	},
	{
		name: "expShifted", doc: "computes y = e^(x−shift) and returns Σ y.",
		pointers: []string{"y", "x"}, floats: []string{"shift"}, ints: []string{"n"}, result: "sum",
		body: func(a *assembler) {
			const sum, shift, x, n, p, t = 0, 1, 2, 3, 4, 5
			a.broadcast("shift+16(FP)", shift)
			a.each(func(h int) { a.clear(a.r(sum, h)) })
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(x, h))
					a.p("VSUBPS %s, %s, %s", a.r(shift, h), a.r(x, h), a.r(x, h))
					a.exp(a.r(x, h), a.r(n, h), a.r(p, h), a.r(t, h))
					a.p("VADDPS %s, %s, %s", a.r(x, h), a.r(sum, h), a.r(sum, h))
					a.p("VMOVUPS %s, %s", a.r(x, h), a.at("DI", "DX", h))
				})
			})
			a.fold("VADDPS", sum, t)
		},
	},
	{
		name: "swiglu", doc: "computes y = silu(gate)·up.",
		pointers: []string{"y", "gate", "up"}, ints: []string{"n"},
		body: func(a *assembler) {
			const g, s, n, p, t = 0, 1, 2, 3, 4
			a.loop(func() {
				a.each(func(h int) {
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), a.r(g, h))
					a.sigmoid(a.r(s, h), a.r(g, h), a.r(n, h), a.r(p, h), a.r(t, h))
					a.p("VMULPS %s, %s, %s", a.r(g, h), a.r(s, h), a.r(s, h))
					a.p("VMULPS %s, %s, %s", a.at("R8", "DX", h), a.r(s, h), a.r(s, h))
					a.p("VMOVUPS %s, %s", a.r(s, h), a.at("DI", "DX", h))
				})
			})
		},
	},
	{
		name: "swigluBackward", doc: "computes the gradients with respect to gate and up.",
		pointers: []string{"dGate", "dUp", "dy", "gate", "up"}, ints: []string{"n"},
		body: func(a *assembler) {
			const g, s, n, p, t, d = 0, 1, 2, 3, 4, 5
			a.loop(func() {
				a.each(func(h int) {
					g, s, n, p, t, d := a.r(g, h), a.r(s, h), a.r(n, h), a.r(p, h), a.r(t, h), a.r(d, h)
					a.p("VMOVUPS %s, %s", a.at("R9", "DX", h), g)
					a.sigmoid(s, g, n, p, t)
					a.p("VMOVUPS %s, %s", a.at("R8", "DX", h), d)
					a.p("VMULPS %s, %s, %s", s, d, d)      // dy·s
					a.p("VMULPS %s, %s, %s", g, d, n)      // dy·s·g
					a.p("VSUBPS %s, %s, %s", s, t, p)      // 1 − s; sigmoid left 1 in t.
					a.p("VFMADD213PS %s, %s, %s", t, g, p) // 1 + g·(1 − s)
					a.p("VMULPS %s, %s, %s", a.at("R10", "DX", h), d, d)
					a.p("VMULPS %s, %s, %s", p, d, d)
					a.p("VMOVUPS %s, %s", d, a.at("DI", "DX", h))
					a.p("VMOVUPS %s, %s", n, a.at("SI", "DX", h))
				})
			})
		},
	},
	{
		name: "rotate", doc: "turns the pairs (a[i], b[i]) by the angles with these cosines and sines.",
		pointers: []string{"a", "b", "cos", "sin"}, ints: []string{"n"},
		body: func(a *assembler) {
			a.loop(func() {
				a.each(func(h int) {
					x, y, cos, sin, u, v := a.r(0, h), a.r(1, h), a.r(2, h), a.r(3, h), a.r(4, h), a.r(5, h)
					a.p("VMOVUPS %s, %s", a.at("DI", "DX", h), x)
					a.p("VMOVUPS %s, %s", a.at("SI", "DX", h), y)
					a.p("VMOVUPS %s, %s", a.at("R8", "DX", h), cos)
					a.p("VMOVUPS %s, %s", a.at("R9", "DX", h), sin)
					a.p("VMULPS %s, %s, %s", x, cos, u)
					a.p("VFNMADD231PS %s, %s, %s", y, sin, u)
					a.p("VMULPS %s, %s, %s", y, cos, v)
					a.p("VFMADD231PS %s, %s, %s", x, sin, v)
					a.p("VMOVUPS %s, %s", u, a.at("DI", "DX", h))
					a.p("VMOVUPS %s, %s", v, a.at("SI", "DX", h))
				})
			})
		},
	},
	{
		name: "columnDots", doc: "computes d[c] = Σ over rows of a·b for 16 columns of rows that are stride elements apart.",
		pointers: []string{"d", "a", "b"}, ints: []string{"rows", "stride"},
		body: func(a *assembler) {
			a.p("SHLQ $2, DX")
			a.each(func(h int) { a.clear(a.r(0, h)) })
			a.p("TESTQ CX, CX")
			a.p("JEQ done")
			a.label("loop")
			a.each(func(h int) {
				a.p("VMOVUPS %s, %s", a.at("SI", "", h), a.r(1, h))
				a.p("VFMADD231PS %s, %s, %s", a.at("R8", "", h), a.r(1, h), a.r(0, h))
			})
			a.p("ADDQ DX, SI")
			a.p("ADDQ DX, R8")
			a.p("DECQ CX")
			a.p("JNE loop")
			a.label("done")
			a.each(func(h int) { a.p("VMOVUPS %s, %s", a.r(0, h), a.at("DI", "", h)) })
		},
	},
}

// attentionFuncs are the kernels that read keys and values which are stored so.
func (s stored) attentionFuncs() []vectorFunc {
	return []vectorFunc{
		{
			name: "dots" + s.suffix, doc: "computes y[h,j] = scale·⟨q[h], k[j]⟩ for heads of n elements and rows that are stride\n// elements apart. A row of y has ldy elements. It writes groups of four, so up to\n// three elements behind y[h,rows−1].",
			pointers: []string{"y", "q", "k *" + s.goType}, floats: []string{"scale"}, ints: []string{"rows", "stride", "n", "ldy", "heads"},
			body: s.dots,
		},
		{
			name: "combine" + s.suffix, doc: "computes y[h] = Σ p[h,j]·v[j] for heads of n elements and rows that are\n// stride elements apart in pages of pageRows rows. The weights of a head begin ldp\n// elements behind those of the one before.",
			pointers: []string{"y", "p", "v *" + s.goType, "pages *int32"}, ints: []string{"rows", "stride", "n", "pageRows", "ldp", "heads"},
			body: s.combine,
		},
	}
}
