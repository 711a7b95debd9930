//go:build cuda

package cuda

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/backend"
)

// storage are the types that buffers may have. Activations are of one type in an
// operation; what is float32 whatever they are (gains, tables, scales, gradients of
// scales, logarithms of denominators, biases, logits) is resolved by operands.
var storage = []backend.DType{backend.F32, backend.BF16}

// activations resolves buffers that an operation wants stored alike, as the first is.
func activations(op string, args ...operand) (out resolved, err error) {
	for i, a := range args {
		own, err := owned(a.name, a.buf, a.want)
		if err != nil {
			return out, fmt.Errorf("%s: %w", op, err)
		}
		out[i] = own
		if first := out[0].kind; own.kind != first {
			return out, fmt.Errorf("%s: %s is stored as %s and %s as %s, and both must be stored alike: %w",
				op, args[0].name, first, a.name, own.kind, backend.ErrUnsupported)
		}
	}
	return out, nil
}

// cacheBeside resolves the keys and values of a cache beside activations: stored as those
// are, or narrower.
func cacheBeside(op string, activated *buffer, keys, values operand) (resolved, error) {
	out, err := activations(op, keys, values)
	if err == nil && out[0].kind == backend.F32 && activated.kind != backend.F32 {
		err = fmt.Errorf("%s: %s is stored as %s beside activations as %s, and must not be wider: %w",
			op, keys.name, out[0].kind, activated.kind, backend.ErrUnsupported)
	}
	return out, err
}

// kernelBeside is kernelFor an operation with a cache: one that is stored as activations
// are, or a narrower one.
func (b *Backend) kernelBeside(alike, narrow operation, activations, cache backend.DType, v variant) *kernel {
	if activations == cache {
		return b.kernelFor(alike, activations, backend.F32, v)
	}
	return b.kernelFor(narrow, activations, cache, v)
}

// convert copies between buffers of as many elements, rounding to nearest, ties to even,
// where the destination is narrower.
func (b *Backend) convert(dst, src *buffer) error {
	return b.launch(b.kernelFor(opConvert, src.kind, dst.kind, plain), b.elementGrid(dst.n), 0, dst.start, src.start, whole(dst.n))
}

// wideAs returns a float32 buffer of as many elements.
func (b *Backend) wideAs(op string, of *buffer) (*buffer, error) {
	out, err := b.allocStep(backend.F32, of.n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return out, nil
}

// widened returns a float32 copy.
func (b *Backend) widened(op string, of *buffer) (*buffer, error) {
	out, err := b.wideAs(op, of)
	if err != nil {
		return nil, err
	}
	if err := b.convert(out, of); err != nil {
		b.Free(out)
		return nil, err
	}
	return out, nil
}

// uploadAs copies from the host. What is rounded is rounded on the device, where the
// rounding is that of every kernel.
func (b *Backend) uploadAs(dst *buffer, src []float32) error {
	if dst.kind == backend.F32 {
		return upload(b, dst.start, src)
	}
	staged, err := b.wideAs("upload", dst)
	if err != nil {
		return err
	}
	defer b.Free(staged)
	if err := upload(b, staged.start, src); err != nil {
		return err
	}
	return b.convert(dst, staged)
}

// downloadAs copies to the host.
func (b *Backend) downloadAs(dst []float32, src *buffer) error {
	if src.kind == backend.F32 {
		return download(b, dst, src.start)
	}
	staged, err := b.widened("download", src)
	if err != nil {
		return err
	}
	defer b.Free(staged)
	return download(b, dst, staged.start)
}

// alike makes a product of float32 of one whose x and y are stored differently: the one
// in bfloat16 gets a copy, which the caller frees. The product's rows of weights are the
// same to the bit, because a copy of x is exact, and y is rounded once all the same. The
// model has two such products: logits are float32, of the rows that are wanted and their
// hidden state, and their gradient, of as many rows. So what is copied is small beside
// the head that is read, and no kernel of products is needed in a third version.
func (b *Backend) alike(op string, p *multiplication) (*buffer, error) {
	if p.y.kind == backend.F32 {
		x, err := b.widened(op, p.x)
		if err == nil {
			p.x = x
		}
		return x, err
	}
	return b.roundAfterwards(op, p)
}

// roundAfterwards makes y a float32 buffer, which is rounded to what y was at the end.
func (b *Backend) roundAfterwards(op string, p *multiplication) (*buffer, error) {
	copied := b.wideAs
	if p.add {
		copied = b.widened
	}
	y, err := copied(op, p.y)
	if err == nil {
		p.y, p.rounded = y, p.y
	}
	return y, err
}
