package doctor

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// componentManager is the component of the operator's own Deployment.
const componentManager = "manager"

// operator is what its Deployment says of it.
type operator struct {
	namespace, name, account string
	// flags are the manager's arguments by name, without dashes.
	flags map[string]string
}

const installOperator = "install it: kubectl apply --server-side -k config/default"

// deployment finds the operator's Deployment and looks whether it works.
func (e *examination) deployment(ctx context.Context) error {
	const area = "Operator"
	var found appsv1.DeploymentList
	err := e.List(ctx, &found, client.InNamespace(e.Operator),
		client.MatchingLabels{v1alpha1.LabelName: v1alpha1.AppName, v1alpha1.LabelComponent: componentManager})
	if err != nil {
		err := e.unknown(err, area, "looking for the operator's Deployment")
		if n := len(e.findings); err == nil && e.Operator == "" {
			e.findings[n-1].Do = "name its namespace by --operator-namespace, or run it with the --context of somebody who may list Deployments"
		}
		return err
	}
	where := "any namespace"
	if e.Operator != "" {
		where = "namespace " + e.Operator
	}
	switch len(found.Items) {
	case 0:
		e.add(Failed, area, installOperator, "there is no Deployment of it (label %s=%s) in %s: nothing will happen to objects", v1alpha1.LabelComponent, componentManager, where)
		return nil
	case 1:
	default:
		var names []string
		for _, d := range found.Items {
			names = append(names, d.Namespace+"/"+d.Name)
		}
		e.add(Warning, area, "keep one, unless each has namespaces of its own (--namespaces); name the one to look at by --operator-namespace",
			"there are %d of them: %s", len(names), list(names))
	}
	d := &found.Items[0]
	e.operator = &operator{namespace: d.Namespace, name: d.Name, account: d.Spec.Template.Spec.ServiceAccountName, flags: flagsOf(d)}
	if e.operator.account == "" {
		e.operator.account = "default"
	}
	image := "no container"
	if containers := d.Spec.Template.Spec.Containers; len(containers) > 0 {
		image = containers[0].Image
	}
	wanted := ptr.Deref(d.Spec.Replicas, 1)
	switch {
	case wanted == 0:
		e.add(Failed, area, fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=1", d.Namespace, d.Name), "%s/%s is scaled to zero", d.Namespace, d.Name)
	case d.Status.ReadyReplicas == 0:
		e.add(Failed, area, fmt.Sprintf("kubectl -n %s describe pods -l %s=%s", d.Namespace, v1alpha1.LabelComponent, componentManager),
			"%s/%s (%s) has no ready pod%s", d.Namespace, d.Name, image, complaint(d))
	default:
		e.add(OK, area, "", "%s/%s, %d/%d ready, image %s", d.Namespace, d.Name, d.Status.ReadyReplicas, wanted, image)
	}
	if only := e.operator.flags["namespaces"]; only != "" && !contains(only, e.Namespace) {
		e.add(Failed, area, "add it to --namespaces (the chart's value namespaces), or use one of those", "it looks at the namespaces %s alone, not at %s", only, e.Namespace)
	}
	return nil
}

func contains(list, name string) bool {
	for n := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(n) == name {
			return true
		}
	}
	return false
}

// complaint is what a Deployment says of itself that does not work.
func complaint(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		bad := c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue ||
			c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse
		if bad && c.Message != "" {
			return ": " + c.Message
		}
	}
	return ""
}

// flagsOf reads the arguments --name=value and --name value of the manager.
func flagsOf(d *appsv1.Deployment) map[string]string {
	flags := map[string]string{}
	for _, c := range d.Spec.Template.Spec.Containers {
		for i, arg := range c.Args {
			name, isFlag := strings.CutPrefix(arg, "-")
			if !isFlag {
				continue
			}
			name, value, given := strings.Cut(strings.TrimPrefix(name, "-"), "=")
			if !given && i+1 < len(c.Args) && !strings.HasPrefix(c.Args[i+1], "-") {
				value = c.Args[i+1]
			}
			flags[name] = value
		}
	}
	return flags
}
