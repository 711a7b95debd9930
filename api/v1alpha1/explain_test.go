package v1alpha1

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// explained is what these tests read of a CRD's schema.
type explained struct {
	Description string               `json:"description"`
	Properties  map[string]explained `json:"properties"`
	Items       *explained           `json:"items"`
	Enum        []string             `json:"enum"`
}

// schemas reads the schemas of the kinds, by the plural of their names.
func schemas(t *testing.T) map[string]explained {
	t.Helper()
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("%d CRDs (%v)", len(files), err)
	}
	all := map[string]explained{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Spec struct {
				Names    struct{ Plural string }
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema explained `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			t.Fatal(err)
		}
		all[crd.Spec.Names.Plural] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return all
}

// at follows names of properties, through lists.
func (s explained) at(t *testing.T, names ...string) explained {
	t.Helper()
	for _, name := range names {
		if s.Items != nil {
			s = *s.Items
		}
		next, ok := s.Properties[name]
		if !ok {
			t.Fatalf("there is no %s of %v", name, names)
		}
		s = next
	}
	return s
}

// TestEveryFieldIsExplained walks what kubectl explain shows.
func TestEveryFieldIsExplained(t *testing.T) {
	var walk func(path string, s explained)
	walk = func(path string, s explained) {
		for name, p := range s.Properties {
			field := path + "." + name
			if len(strings.Fields(p.Description)) < 3 && !strings.HasSuffix(path, ".metadata") {
				t.Errorf("%s is explained by %q", field, p.Description)
			}
			walk(field, p)
			if p.Items != nil {
				walk(field+"[]", *p.Items)
			}
		}
	}
	for kind, s := range schemas(t) {
		walk(kind+".spec", s.at(t, "spec"))
		walk(kind+".status", s.at(t, "status"))
	}
}

// TestEveryFieldSaysWhatAChangeDoes: whether it trains again, replaces pods, or
// cannot be.
func TestEveryFieldSaysWhatAChangeDoes(t *testing.T) {
	all := schemas(t)
	for kind, parent := range map[string]explained{
		"basemodels.spec":             all["basemodels"].at(t, "spec"),
		"basemodels.spec.storage":     all["basemodels"].at(t, "spec", "storage"),
		"expertvectors.spec.training": all["expertvectors"].at(t, "spec", "training"),
		"adaptivepolicies.spec":       all["adaptivepolicies"].at(t, "spec"),
		"expertvectors.spec":          all["expertvectors"].at(t, "spec"),
	} {
		for name, p := range parent.Properties {
			known := slices.Contains([]string{"suspend", "skill", "training", "expertSelector", "size", "podTemplate"}, name)
			if !known && !strings.Contains(p.Description, "change") {
				t.Errorf("%s.%s does not say what a change does: %q", kind, name, p.Description)
			}
		}
	}
}

// TestFormatsAreExplained wants the fields of a line for each format.
func TestFormatsAreExplained(t *testing.T) {
	format := schemas(t)["expertvectors"].at(t, "spec", "training", "dataset", "train", "format")
	if len(format.Enum) == 0 {
		t.Fatal("there are no formats")
	}
	for _, name := range format.Enum {
		_, after, ok := strings.Cut(format.Description, "\n"+name+": ")
		fields, _, _ := strings.Cut(after, "\n")
		if !ok || len(strings.Fields(fields)) == 0 {
			t.Errorf("format %s is not explained in %q", name, format.Description)
		}
	}
}

// TestOneOfIsSaid where the schema asks for exactly one of some fields.
func TestOneOfIsSaid(t *testing.T) {
	all := schemas(t)
	for _, path := range [][]string{
		{"basemodels", "spec", "source", "http"},
		{"expertvectors", "spec", "training"},
		{"expertvectors", "spec", "source", "http"},
		{"expertvectors", "spec", "training", "dataset", "train", "configMap"},
	} {
		if p := all[path[0]].at(t, path[1:]...); !strings.Contains(p.Description, "xactly one of") {
			t.Errorf("%s does not say that it is one of several: %q", fmt.Sprint(path), p.Description)
		}
	}
}
