package server

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// unknownMembers names the members of a JSON object, and of those within it, that a Go
// type has no field for: what a newer operator says and this runtime cannot do. Each is
// named once, however many elements of a list have it.
func unknownMembers(text []byte, t reflect.Type) []string {
	var value any
	if json.Unmarshal(text, &value) != nil {
		return nil // Whoever decodes it says why.
	}
	var names []string
	collectUnknown(value, t, "", &names)
	slices.Sort(names)
	return slices.Compact(names)
}

func collectUnknown(value any, t reflect.Type, within string, names *[]string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := value.(type) {
	case []any:
		if t.Kind() == reflect.Slice {
			for _, element := range v {
				collectUnknown(element, t.Elem(), within, names)
			}
		}
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return
		}
		fields := jsonFields(t)
		for name, member := range v {
			field, known := fields[strings.ToLower(name)] // As encoding/json finds them.
			path := strings.TrimPrefix(within+"."+name, ".")
			if !known {
				*names = append(*names, path)
				continue
			}
			collectUnknown(member, field, path, names)
		}
	}
}

// jsonFields are the types of a struct's fields by the names, in lower case, that they
// have in JSON.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "-" {
			fields[strings.ToLower(cmp.Or(name, f.Name))] = f.Type
		}
	}
	return fields
}

// ascribe gives a candidate's unknown members to the candidate: its set is served whole
// without them.
func ascribe(set *contract.ExpertSet) {
	if set.Candidate == nil {
		return
	}
	var own []string
	for _, name := range set.Unknown {
		if of, found := strings.CutPrefix(name, "candidate."); found {
			set.Candidate.Set.Unknown = append(set.Candidate.Set.Unknown, strings.TrimPrefix(of, "set."))
		} else {
			own = append(own, name)
		}
	}
	set.Unknown = own
}

// notUnderstood says that a set asks for what this runtime does not know; nil where it
// knows all of it. The rest is served.
func notUnderstood(set contract.ExpertSet) error {
	if len(set.Unknown) == 0 {
		return nil
	}
	const most = 5
	names := strings.Join(set.Unknown[:min(len(set.Unknown), most)], ", ")
	return failure.Permanent(contract.ReasonRuntimeTooOld, fmt.Errorf(
		"this runtime knows nothing of %s, which the expert set asks for: it is older than the operator; give the base model an image of the operator's version", names))
}
