package torch

import (
	"errors"
	"fmt"
	"strings"
)

// Values of a pickle: nil, bool, int64, float64, string, tuple, *list, *dict, global,
// *storage and *view.
type (
	tuple []any
	list  struct{ items []any }
	// dict keeps the order of insertion, as Python's does.
	dict struct {
		keys, values []any
		index        map[any]int
	}
	// global is the name of something that Python would import.
	global struct{ module, name string }
	// callable is a global that may be applied to arguments.
	callable func(args tuple) (any, error)
)

func (g global) String() string { return g.module + "." + g.name }

// callables are all that a pickle may ask to be called, with what stands for it here.
var callables = map[global]callable{
	{"collections", "OrderedDict"}: func(args tuple) (any, error) {
		if len(args) > 0 {
			return nil, errors.New("an OrderedDict is made of something: PyTorch makes empty ones and fills them")
		}
		return newDict(), nil
	},
	{"torch._utils", "_rebuild_tensor_v2"}:            func(args tuple) (any, error) { return asAny(rebuildTensor(args)) },
	{"torch._utils", "_rebuild_parameter"}:            func(args tuple) (any, error) { return asAny(rebuildParameter(args)) },
	{"torch._utils", "_rebuild_parameter_with_state"}: func(args tuple) (any, error) { return asAny(rebuildParameter(args)) },
}

func asAny(v *view, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// known reports whether a pickle may name something: what it may call, and the types
// of storages, those that cannot be read included, so that a better error comes later.
func known(g global) bool {
	return callables[g] != nil || g.module == "torch" && strings.HasSuffix(g.name, "Storage")
}

func newDict() *dict { return &dict{index: map[any]int{}} }

func (d *dict) set(key, value any) error {
	switch key.(type) {
	case string, int64, bool, float64, nil:
	default:
		return fmt.Errorf("a dict has %s as a key", kind(key))
	}
	if i, ok := d.index[key]; ok {
		d.values[i] = value
		return nil
	}
	d.index[key] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, value)
	return nil
}

// kind says what a value is, for errors.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	case string:
		return "a string"
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case *storage:
		return "a storage"
	case *view:
		return "a tensor"
	case global:
		return v.String()
	default:
		return "something"
	}
}
