// Package fields lists the fields of the API's types, so that a table of cases by
// field can be checked to be whole: a field that is added without a case fails the
// test.
package fields

import (
	"reflect"
	"slices"
	"strings"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// own is the package whose structs are descended into; those of others are values.
var own = reflect.TypeFor[v1alpha1.BaseModelSpec]().PkgPath()

// Of are the fields of a type by their JSON names, such as
// serving.replicas or experts[].name. A struct of the types that are given as
// whole is one field.
func Of(t reflect.Type, whole ...reflect.Type) []string {
	var paths []string
	walk(t, "", whole, &paths)
	return paths
}

func walk(t reflect.Type, path string, whole []reflect.Type, paths *[]string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Struct && t.PkgPath() == own && !slices.Contains(whole, t):
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			walk(field.Type, strings.TrimPrefix(path+"."+name, "."), whole, paths)
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && t.Elem().PkgPath() == own:
		walk(t.Elem(), path+"[]", whole, paths)
	default:
		*paths = append(*paths, path)
	}
}
