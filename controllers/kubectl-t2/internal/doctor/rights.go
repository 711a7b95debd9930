package doctor

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// roleYAML is config/rbac/role.yaml, which hack/generate.sh copies: what the operator
// has to be allowed.
//
//go:embed role.yaml
var roleYAML []byte

// right is a verb on a resource.
type right struct{ group, resource, subresource, verb string }

func (r right) String() string {
	name := r.resource
	if r.subresource != "" {
		name += "/" + r.subresource
	}
	if r.group != "" {
		name += "." + r.group
	}
	return r.verb + " " + name
}

func (r right) attributes(namespace string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Namespace: namespace, Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource}
}

// needed are the rights of the operator's role.
func needed() ([]right, error) {
	var rights []right
	for document := range strings.SplitSeq(string(roleYAML), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the operator's role: %w", err)
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, name := range rule.Resources {
					resource, sub, _ := strings.Cut(name, "/")
					for _, verb := range rule.Verbs {
						rights = append(rights, right{group, resource, sub, verb})
					}
				}
			}
		}
	}
	return rights, nil
}

// operatorRights asks whether the operator's service account may do in the namespace what
// its role says.
func (e *examination) operatorRights(ctx context.Context) error {
	const area = "Operator's rights"
	if e.operator == nil {
		return nil // Which has been said.
	}
	rights, err := needed()
	if err != nil {
		return err
	}
	account := "system:serviceaccount:" + e.operator.namespace + ":" + e.operator.account
	var lacking []string
	for _, r := range rights {
		attributes := r.attributes(e.Namespace)
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: account, ResourceAttributes: &attributes,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + e.operator.namespace, "system:authenticated"},
		}}
		if err := e.Create(ctx, review); err != nil {
			return e.unknown(err, area, "asking what the operator may do")
		}
		if !review.Status.Allowed {
			lacking = append(lacking, r.String())
		}
	}
	if len(lacking) > 0 {
		e.add(Failed, area, "kubectl apply --server-side -k config/rbac, or the chart's RBAC, of the operator's version, for this namespace",
			"%s may not, in namespace %s: %s", account, e.Namespace, list(lacking))
		return nil
	}
	e.add(OK, area, "", "%s has the %d rights of its role in namespace %s", account, len(rights), e.Namespace)
	return nil
}

// task is what a person wants to do, and the rights for it.
type task struct {
	what   string
	rights []right
	level  Level
	do     string
}

func tasks() []task {
	ours := func(verbs ...string) []right {
		var rights []right
		for _, k := range kinds {
			for _, verb := range verbs {
				rights = append(rights, right{v1alpha1.GroupName, k.plural, "", verb})
			}
		}
		return rights
	}
	return []task{
		{"see bases, experts and policies", ours("get", "list"), Failed, "ask for the ClusterRole view in this namespace, which has t2-view"},
		{"change them", ours("create", "update", "patch", "delete"), Note, "ask for the ClusterRole edit in this namespace, which has t2-edit"},
		{"find pods", []right{{"", "pods", "", "list"}}, Warning, "ask for the ClusterRole view in this namespace: curve, explain, chat and eval need it"},
		{"ask pods", []right{{"", "pods", "portforward", "create"}}, Warning, "ask for the ClusterRole edit in this namespace, or use --url: curve, explain, chat and eval need it"},
	}
}

// userRights asks what whoever runs the plugin may do.
func (e *examination) userRights(ctx context.Context) error {
	const area = "Your rights"
	for _, t := range tasks() {
		var lacking []string
		for _, r := range t.rights {
			attributes := r.attributes(e.Namespace)
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
			switch err := e.Create(ctx, review); {
			case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
				return e.unknown(err, area, "")
			case err != nil:
				return fmt.Errorf("asking what you may do: %w", err)
			}
			if !review.Status.Allowed {
				lacking = append(lacking, r.String())
			}
		}
		if len(lacking) > 0 {
			slices.Sort(lacking)
			e.add(t.level, area, t.do, "in namespace %s you cannot %s: no right to %s", e.Namespace, t.what, list(lacking))
			continue
		}
		e.add(OK, area, "", "you can %s in namespace %s", t.what, e.Namespace)
	}
	return nil
}
