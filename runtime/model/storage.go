package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/backend"
)

// Storage is how a model's activations, and the keys and values of its caches, are
// stored: as float32, which the zero value means, or as bfloat16 where the backend has
// it. Sums are float32 in any case, and so are logits, norms' gains, scales and their
// gradients; bfloat16 rounds what is written, and halves what is read.
type Storage struct {
	Activations, Cache backend.DType
}

// StoredAs stores activations and caches so. Without it they are float32.
func StoredAs(s Storage) Option {
	return func(m *Model) { m.storage = s }
}

// ServingStorage is how a server stores what somebody says nothing of. Weights in
// bfloat16 or int8 round what they are multiplied with anyhow, and their products read
// bfloat16 as it is: with those activations and caches are bfloat16, where the backend
// has it. Weights in float32 were asked for by who wants no rounding. Training does not
// ask: its gradients are summed over many tokens, and are float32.
func ServingStorage(be backend.Backend, weights backend.DType) Storage {
	if weights == backend.F32 || !slices.Contains(be.Capabilities().Storage, backend.BF16) {
		return Storage{}
	}
	return Storage{Activations: backend.BF16, Cache: backend.BF16}
}

// ParseStorage is ServingStorage but for what is named: types of activations and of
// caches, in any case, each empty or "auto" where it is not. A cache is never wider than
// activations: one that is not named follows them.
func ParseStorage(be backend.Backend, weights backend.DType, activations, cache string) (Storage, error) {
	s := ServingStorage(be, weights)
	named := func(what, name string, t *backend.DType) (bool, error) {
		if name == "" || strings.EqualFold(name, "auto") {
			return false, nil
		}
		var err error
		if *t, err = backend.ParseDType(name); err != nil || *t == backend.Int8 {
			return false, fmt.Errorf("%s stored as %q: use auto, %s or %s", what, name, backend.F32, backend.BF16)
		}
		return true, nil
	}
	cacheNamed, err := named("keys and values", cache, &s.Cache)
	if err != nil {
		return s, err
	}
	activationsNamed, err := named("activations", activations, &s.Activations)
	switch {
	case err != nil:
		return s, err
	case activationsNamed && !cacheNamed:
		s.Cache = s.Activations
	case cacheNamed && !activationsNamed && s.Cache == backend.F32:
		s.Activations = backend.F32
	}
	return s, s.check(be)
}

// String names the types: "bf16", or "f32, keys and values bf16".
func (s Storage) String() string {
	if s.Activations == s.Cache {
		return s.Activations.String()
	}
	return fmt.Sprintf("%s, keys and values %s", s.Activations, s.Cache)
}

// check refuses what the backend does not have.
func (s Storage) check(be backend.Backend) error {
	has := be.Capabilities()
	for _, stored := range []struct {
		what string
		as   backend.DType
		has  []backend.DType
	}{{"activations", s.Activations, has.Storage}, {"keys and values", s.Cache, has.Cache}} {
		if !slices.Contains(stored.has, stored.as) {
			return fmt.Errorf("store %s as %s: %s has %s: %w", stored.what, stored.as, be.Name(), names(stored.has), backend.ErrUnsupported)
		}
	}
	if s.Activations != backend.F32 && s.Cache != s.Activations {
		return fmt.Errorf("store keys and values as %s beside activations as %s: they may be narrower than activations, and not wider: %w",
			s.Cache, s.Activations, backend.ErrUnsupported)
	}
	return nil
}

func names(types []backend.DType) string {
	all := make([]string, len(types))
	for i, t := range types {
		all[i] = t.String()
	}
	return strings.Join(all, ", ")
}
