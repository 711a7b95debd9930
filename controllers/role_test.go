package controllers

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"k8s.io/apimachinery/pkg/api/meta"
)

// A cache that may not list or watch a kind never comes up, and the operator with it.
func TestTheRoleAllowsWhatTheCacheReads(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(text, &role); err != nil {
		t.Fatal(err)
	}
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(object client.Object, verb string) bool {
		gvk, err := apiutil.GVKForObject(object, scheme)
		if err != nil {
			t.Fatal(err)
		}
		resource, _ := meta.UnsafeGuessKindToResource(gvk)
		return slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.APIGroups, gvk.Group) && slices.Contains(r.Resources, resource.Resource) && slices.Contains(r.Verbs, verb)
		})
	}
	for object := range CacheOptions().ByObject {
		for _, verb := range []string{"get", "list", "watch"} {
			if !allowed(object, verb) {
				t.Errorf("the role does not allow to %s %T", verb, object)
			}
		}
	}
	for _, verb := range strings.Fields("create patch delete") {
		if !allowed(&policyv1.PodDisruptionBudget{}, verb) {
			t.Errorf("the role does not allow to %s PodDisruptionBudgets", verb)
		}
	}
}
