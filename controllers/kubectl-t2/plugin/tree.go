package plugin

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/transformersquared/operator/api/v1alpha1"
)

// node is an object in the tree of status: a base with its experts and policies, or a
// policy with the experts that it serves. It is also what -o json prints.
type node struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	health
	// Detail are the facts beside, in the order of their weight.
	Detail []string `json:"detail,omitempty"`
	// State of an expert in its policy.
	State    string `json:"state,omitempty"`
	Children []node `json:"children,omitempty"`
	// notes are lines below it.
	notes []string
}

// Kinds of a node that are no objects of their own.
const (
	kindServed     = "ServedExpert"
	kindClassifier = "Classifier"
	kindProbe      = "Probe"
)

const reasonNotFound = "NotFound"

// tree is a forest: a root for each base, and one for each base that is named and not
// there.
func (w *world) tree(only *target) []node {
	roots := make([]node, 0, len(w.bases))
	at := map[[2]string]int{}
	for i := range w.bases {
		b := &w.bases[i]
		at[[2]string{b.Namespace, b.Name}] = len(roots)
		roots = append(roots, nodeOfBase(b))
	}
	root := func(namespace, name string) *node {
		key := [2]string{namespace, name}
		i, ok := at[key]
		if !ok {
			i = len(roots)
			at[key] = i
			roots = append(roots, node{
				Kind: kindBase, Namespace: namespace, Name: name,
				health: health{Reason: reasonNotFound, Message: fmt.Sprintf("There is no BaseModel %s in namespace %s", name, namespace)},
			})
		}
		return &roots[i]
	}
	for i := range w.experts {
		e := &w.experts[i]
		if r := root(e.Namespace, e.Spec.BaseModelRef.Name); w.wanted(only, kindExpert, e.Name, e.Spec.BaseModelRef.Name, nil) {
			r.Children = append(r.Children, nodeOfExpert(e))
		}
	}
	for i := range w.policies {
		p := &w.policies[i]
		if r := root(p.Namespace, p.Spec.BaseModelRef.Name); w.wanted(only, kindPolicy, p.Name, p.Spec.BaseModelRef.Name, p) {
			r.Children = append(r.Children, nodeOfPolicy(p))
		}
	}
	if only != nil {
		roots = slices.DeleteFunc(roots, func(n node) bool {
			return len(n.Children) == 0 && (only.kind != kindBase || n.Name != only.name)
		})
	}
	slices.SortStableFunc(roots, func(a, b node) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return roots
}

// wanted reports whether an object is in the tree of the one that is asked for: of a base
// what belongs to it, of an expert the policies that use it, of a policy its experts.
func (w *world) wanted(only *target, kind, name, base string, policy *v1alpha1.AdaptivePolicy) bool {
	switch {
	case only == nil:
		return true
	case only.kind == kindBase:
		return base == only.name
	case only.kind == kind:
		return name == only.name
	case only.kind == kindExpert:
		return policy != nil && uses(policy, only.name)
	default: // Experts of the policy that is asked for.
		return slices.ContainsFunc(w.policies, func(p v1alpha1.AdaptivePolicy) bool { return p.Name == only.name && uses(&p, name) })
	}
}

// has reports whether the object that is asked for is there.
func (w *world) has(only *target) bool {
	switch only.kind {
	case kindBase:
		return slices.ContainsFunc(w.bases, func(b v1alpha1.BaseModel) bool { return b.Name == only.name })
	case kindExpert:
		return slices.ContainsFunc(w.experts, func(e v1alpha1.ExpertVector) bool { return e.Name == only.name })
	default:
		return slices.ContainsFunc(w.policies, func(p v1alpha1.AdaptivePolicy) bool { return p.Name == only.name })
	}
}

func nodeOfBase(b *v1alpha1.BaseModel) node {
	n := node{Kind: kindBase, Namespace: b.Namespace, Name: b.Name, health: healthOfBase(b)}
	n.add(stepBar(b.Status.Progress))
	if a := b.Status.Architecture; a != nil {
		n.add(fmt.Sprintf("%s, %s parameters", a.Family, count(a.Parameters)))
	}
	if d := b.Status.Decomposition; d != nil {
		n.add(fmt.Sprintf("%d matrices, %d singular values", d.Matrices, d.SingularValues))
	}
	if a := b.Status.Artifact; a != nil {
		n.add(size(a.SizeBytes))
		n.add(short(string(a.Digest)))
	}
	return n
}

func nodeOfExpert(e *v1alpha1.ExpertVector) node {
	n := node{Kind: kindExpert, Namespace: e.Namespace, Name: e.Name, health: healthOfExpert(e)}
	if !n.Ready && n.Reason != reasonUnseen {
		n.add(trainingBar(e.Status.Progress))
	}
	n.add(scores(e.Status.Score, e.Status.BaselineScore))
	if p := e.Status.Progress; n.Ready && p != nil && p.Summary != "" {
		n.add(p.Summary + " iterations")
	}
	if a := e.Status.Artifact; a != nil {
		n.add(short(string(a.Digest)))
		n.add(size(a.SizeBytes))
	}
	if e.Spec.Role == v1alpha1.RoleDispatcher {
		n.add("dispatcher")
	}
	return n
}

func nodeOfPolicy(p *v1alpha1.AdaptivePolicy) node {
	n := node{Kind: kindPolicy, Namespace: p.Namespace, Name: p.Name, health: healthOfPolicy(p)}
	if s := p.Status.FewShot; s != nil && s.Progress != nil {
		n.add(searchBar(s.Progress))
	}
	if s := p.Status.Probe; s != nil && s.Progress != nil && s.Progress.Summary != "" {
		n.add("probe: " + s.Progress.Summary)
	}
	n.add(string(p.Spec.Strategy.Type))
	if p.Status.ReplicaSummary != "" {
		n.add(p.Status.ReplicaSummary + " pods")
	}
	if p.Status.ExpertSummary != "" {
		n.add(p.Status.ExpertSummary + " experts")
	}
	if r := p.Status.Rollout; r != nil && r.Summary != "" {
		n.add("rollout: " + r.Summary)
	}
	if p.Status.ExpertSetDigest != "" {
		n.add("set " + short(string(p.Status.ExpertSetDigest)))
	}
	for _, e := range p.Status.Experts {
		c := node{Kind: kindServed, Name: e.Name, State: string(e.State), health: health{Ready: e.State == v1alpha1.ExpertServed, Reason: string(e.State)}}
		c.add(scores(e.Score, e.BaselineScore))
		if e.Weight != "" {
			c.add("α " + string(e.Weight))
		}
		c.add(short(string(e.Digest)))
		if e.TransferredFrom != "" {
			c.add("from " + e.TransferredFrom)
		}
		n.Children = append(n.Children, c)
	}
	if c := p.Status.Classifier; c != nil {
		child := node{Kind: kindClassifier, Name: c.Expert, State: string(c.State), health: health{Ready: c.State == v1alpha1.ExpertServed, Reason: string(c.State)}}
		child.add("pass 1")
		child.add(scores(c.Score, c.BaselineScore))
		n.Children = append(n.Children, child)
	}
	if s := p.Status.Probe; s != nil && s.State != "" {
		child := node{Kind: kindProbe, Name: "probe", State: string(s.State), health: health{Ready: s.State == v1alpha1.ExpertServed, Reason: string(s.State)}}
		if s.Accuracy != "" {
			child.add("right " + string(s.Accuracy))
		}
		child.add(short(string(s.Digest)))
		n.Children = append(n.Children, child)
	}
	for _, pod := range p.Status.Pods {
		if pod.Error != "" {
			n.notes = append(n.notes, fmt.Sprintf("pod %s: %s", pod.Name, pod.Error))
		}
	}
	if a := p.Status.Adaptation; a != nil {
		n.notes = append(n.notes, fmt.Sprintf("last chose %s at %s", a.Expert, a.Time.UTC().Format("15:04:05 UTC")))
	}
	return n
}

// add appends a fact that is known.
func (n *node) add(fact string) {
	if fact != "" {
		n.Detail = append(n.Detail, fact)
	}
}

// unwell counts the objects that are not Ready: of what is asked for, where something is.
func unwell(roots []node, only *target) (not, all int) {
	for _, n := range roots {
		if isObject(n.Kind) && (only == nil || n.Kind == only.kind && n.Name == only.name) {
			all++
			if !n.Ready {
				not++
			}
		}
		a, b := unwell(n.Children, only)
		not, all = not+a, all+b
	}
	return not, all
}

func isObject(kind string) bool { return kind == kindBase || kind == kindExpert || kind == kindPolicy }

// scores shows a score, the base model's, and what lies between.
func scores(score, baseline v1alpha1.Score) string {
	s, scored := new(big.Rat).SetString(string(score))
	b, measured := new(big.Rat).SetString(string(baseline))
	switch {
	case scored && measured:
		gain := new(big.Rat).Sub(s, b).FloatString(4)
		if !strings.HasPrefix(gain, "-") {
			gain = "+" + gain
		}
		return fmt.Sprintf("%s (base %s, %s)", score, baseline, gain)
	case scored:
		return string(score)
	case measured:
		return "base " + string(baseline)
	default:
		return ""
	}
}

// short is enough of a digest to tell it from others.
func short(digest string) string {
	digits := strings.TrimPrefix(digest, "sha256:")
	return digits[:min(len(digits), 12)]
}

// size writes bytes as people do.
func size(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	value, unit := float64(n), 0
	for ; value >= step && unit < 4; unit++ {
		value /= step
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGT"[unit])
}

// count writes a large number as people do.
func count(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	default:
		return fmt.Sprint(n)
	}
}
