package doctor

import (
	"context"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// kind is one of ours, by the name of its CRD's plural.
type kind struct {
	plural string
	typ    reflect.Type
}

var kinds = []kind{
	{"basemodels", reflect.TypeFor[v1alpha1.BaseModel]()},
	{"expertvectors", reflect.TypeFor[v1alpha1.ExpertVector]()},
	{"adaptivepolicies", reflect.TypeFor[v1alpha1.AdaptivePolicy]()},
}

const applyCRDs = "kubectl apply --server-side -k config/crd (or the chart's CRDs; Helm does not upgrade those in crds/)"

// kinds looks at the CRDs: are they there, served, and of this plugin's version?
func (e *examination) kinds(ctx context.Context) error {
	for _, k := range kinds {
		if err := e.kind(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

func (e *examination) kind(ctx context.Context, k kind) error {
	const area = "CRD"
	name := k.plural + "." + v1alpha1.GroupName
	var crd unstructured.Unstructured
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	switch err := e.Get(ctx, client.ObjectKey{Name: name}, &crd); {
	case apierrors.IsNotFound(err):
		e.add(Failed, area, applyCRDs, "%s is not installed", name)
		return nil
	case apierrors.IsForbidden(err):
		return e.served(ctx, k, name)
	case err != nil:
		return e.unknown(err, area, "reading CRD "+name)
	}
	if !established(crd) {
		e.add(Failed, area, "kubectl describe crd "+name, "%s is not established", name)
		return nil
	}
	properties, found := served(crd)
	if !found {
		e.add(Failed, area, applyCRDs, "%s does not serve %s", name, v1alpha1.SchemeGroupVersion.Version)
		return nil
	}
	ours, theirs := fieldsOf(k.typ), fieldsIn(properties)
	switch lacking, unknown := without(ours, theirs), without(theirs, ours); {
	case len(lacking) > 0:
		e.add(Warning, area, applyCRDs, "%s is older than this plugin: it lacks %s", name, list(lacking))
	case len(unknown) > 0:
		e.add(Note, area, "install the plugin of the operator's version", "%s is newer than this plugin, which does not know %s", name, list(unknown))
	default:
		e.add(OK, area, "", "%s, %s, with all fields of this plugin", name, v1alpha1.SchemeGroupVersion.Version)
	}
	return nil
}

// served is for those who may not read CRDs: the kind is there if it can be listed.
func (e *examination) served(ctx context.Context, k kind, name string) error {
	const area = "CRD"
	var listed unstructured.UnstructuredList
	listed.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(k.typ.Name() + "List"))
	err := e.List(ctx, &listed, client.InNamespace(e.Namespace), client.Limit(1))
	switch {
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		e.add(Failed, area, applyCRDs, "%s is not installed", name)
		return nil
	case err != nil:
		return e.unknown(err, area, "listing "+k.plural)
	}
	e.add(OK, area, "", "%s is served; you may not read its schema", name)
	return nil
}

func established(crd unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Established" && m["status"] == "True"
	})
}

// served returns the properties of the version that is ours.
func served(crd unstructured.Unstructured) (properties map[string]any, found bool) {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if on, _ := m["served"].(bool); m["name"] == v1alpha1.SchemeGroupVersion.Version && on {
			properties, _, _ = unstructured.NestedMap(m, "schema", "openAPIV3Schema", "properties")
			return properties, true
		}
	}
	return nil, false
}

// fieldsOf are the paths of spec and status of a Go type, as far as its types are ours.
func fieldsOf(t reflect.Type) []string {
	var paths []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || t.PkgPath() != kinds[0].typ.PkgPath() {
			return
		}
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && name == "":
				walk(f.Type, path)
			case name != "" && name != "-":
				paths = append(paths, path+name)
				walk(f.Type, path+name+".")
			}
		}
	}
	for _, top := range []string{"Spec", "Status"} {
		if f, ok := t.FieldByName(top); ok {
			walk(f.Type, strings.ToLower(top)+".")
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// fieldsIn are the paths of a schema.
func fieldsIn(properties map[string]any) []string {
	var paths []string
	var walk func(properties map[string]any, path string)
	walk = func(properties map[string]any, path string) {
		for name, v := range properties {
			s, _ := v.(map[string]any)
			for {
				if items, ok := s["items"].(map[string]any); ok {
					s = items
				} else if values, ok := s["additionalProperties"].(map[string]any); ok {
					s = values
				} else {
					break
				}
			}
			paths = append(paths, path+name)
			below, _ := s["properties"].(map[string]any)
			walk(below, path+name+".")
		}
	}
	for _, top := range []string{"spec", "status"} {
		s, _ := properties[top].(map[string]any)
		below, _ := s["properties"].(map[string]any)
		walk(below, top+".")
	}
	slices.Sort(paths)
	return paths
}

// without are the paths that others have not, the topmost of each branch. What is below
// a path that others have as a leaf is theirs to say: types of Kubernetes are not ours.
func without(paths, others []string) []string {
	has := map[string]bool{}
	inner := map[string]bool{}
	for _, p := range others {
		has[p] = true
		if i := strings.LastIndexByte(p, '.'); i > 0 {
			inner[p[:i]] = true
		}
	}
	var lacking []string
	for _, p := range paths {
		parent := p[:max(0, strings.LastIndexByte(p, '.'))]
		switch {
		case has[p]:
		case parent != "spec" && parent != "status" && (!has[parent] || !inner[parent]):
			// Told of the parent, or no matter of ours.
		default:
			lacking = append(lacking, p)
		}
	}
	return lacking
}
