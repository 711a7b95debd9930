package contract_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/contract"
)

// identified is a specification that has an identity.
type identified interface{ Identity() contract.Inputs }

// withoutPart are the fields that are in no identity, by specification: they change
// nothing of what comes out.
var withoutPart = map[string][]string{
	"FetchSpec":     nil,
	"PublishSpec":   nil,
	"DecomposeSpec": {"backend"},
	"ImportSpec":    {"skill"},
	"TrainSpec":     {"name", "skill", "runID", "backend", "train.name", "train.credentials", "validation.name", "validation.credentials"},
	"AdaptSpec":     {"name", "runID", "dtype", "backend", "examples.name", "examples.credentials"},
	"ProbeSpec":     {"name", "dtype", "backend", "answers.digest", "sets.dataset.name", "sets.dataset.credentials"},
	"EvaluateSpec": {
		"name", "runID", "kvCacheBytes", "maxBatch", "backend", "candidate.digest", "stable.digest",
		"candidate.candidate.mode", "candidate.candidate.percent", "candidate.candidate.salt",
		"stable.candidate.mode", "stable.candidate.percent", "stable.candidate.salt",
		"sets.field", "sets.dataset.name", "sets.dataset.credentials",
	},
	"ExpertSet": {"candidate.mode", "candidate.percent", "candidate.salt", "digest"},
}

// TestEveryFieldIsInAnIdentityOrKnowinglyNot: whoever adds a field decides whether it
// makes another run, and a field of which that is forgotten fails here.
func TestEveryFieldIsInAnIdentityOrKnowinglyNot(t *testing.T) {
	for name, empty := range map[string]func() any{
		"FetchSpec":     func() any { return &contract.FetchSpec{} },
		"DecomposeSpec": func() any { return &contract.DecomposeSpec{} },
		"ImportSpec":    func() any { return &contract.ImportSpec{} },
		"TrainSpec":     func() any { return &contract.TrainSpec{} },
		"AdaptSpec":     func() any { return &contract.AdaptSpec{} },
		"ProbeSpec":     func() any { return &contract.ProbeSpec{} },
		"EvaluateSpec":  func() any { return &contract.EvaluateSpec{} },
		"ExpertSet":     func() any { return &contract.ExpertSet{} },
		"PublishSpec":   func() any { return &contract.PublishSpec{} },
	} {
		t.Run(name, func(t *testing.T) {
			digest := func(spec any) string {
				d, err := spec.(identified).Identity().Digest()
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			var without []string
			for _, field := range fieldsOf(reflect.TypeOf(empty()).Elem(), nil) {
				// The same but for one field, in whose place there is something.
				less, more := empty(), empty()
				reach(reflect.ValueOf(less).Elem(), field.index[:len(field.index)-1])
				set(reach(reflect.ValueOf(more).Elem(), field.index))
				if digest(less) == digest(more) {
					without = append(without, field.name)
				}
			}
			slices.Sort(without)
			want := slices.Sorted(slices.Values(withoutPart[name]))
			if !slices.Equal(without, want) {
				t.Errorf("not in the identity: %v, want %v", without, want)
			}
		})
	}
}

type field struct {
	name  string
	index []int
}

// fieldsOf finds the fields of a struct and of those below it, by the names that they have
// in JSON.
func fieldsOf(s reflect.Type, within []reflect.Type) []field {
	var all []field
	for i := range s.NumField() {
		f := s.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		of := f.Type
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		switch {
		case slices.Contains(within, of): // A data set of skills has data sets, with the same fields.
			continue
		case of.Kind() != reflect.Struct:
			all = append(all, field{name, []int{i}})
			continue
		}
		for _, below := range fieldsOf(of, append(within, s)) {
			all = append(all, field{strings.TrimPrefix(name+"."+below.name, "."), append([]int{i}, below.index...)})
		}
	}
	return all
}

// reach goes to a field, and makes what is on the way there.
func reach(v reflect.Value, index []int) reflect.Value {
	for _, i := range index {
		v = inside(v).Field(i)
	}
	if len(index) > 0 && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) && holdsStruct(v.Type()) {
		inside(v)
	}
	return v
}

func holdsStruct(t reflect.Type) bool { return t.Elem().Kind() == reflect.Struct }

// inside returns the struct that a pointer or list holds, one that is made if there is none.
func inside(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return v.Elem()
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		return v.Index(0)
	}
	return v
}

// set gives a value something that is not zero.
func set(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	}
}
