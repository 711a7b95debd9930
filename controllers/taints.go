package controllers

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// taints is the value of a flag that may be repeated: tolerations of taints, which
// are written as kubectl taint does.
type taints struct{ tolerations *[]corev1.Toleration }

// String returns the taints as Set takes them.
func (t taints) String() string {
	if t.tolerations == nil {
		return ""
	}
	var texts []string
	for _, one := range *t.tolerations {
		text := one.Key
		if one.Operator == corev1.TolerationOpEqual {
			text += "=" + one.Value
		}
		if one.Effect != "" {
			text += ":" + string(one.Effect)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ",")
}

// Set adds the toleration of a taint: KEY of any value, KEY=VALUE of that one,
// either with :EFFECT or of any effect. An empty text adds none, and so says that
// there is none.
func (t taints) Set(text string) error {
	if *t.tolerations == nil {
		*t.tolerations = []corev1.Toleration{}
	}
	if text == "" {
		return nil
	}
	taint, effect, hasEffect := strings.Cut(text, ":")
	key, value, hasValue := strings.Cut(taint, "=")
	one := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffect(effect)}
	if hasValue {
		one.Operator, one.Value = corev1.TolerationOpEqual, value
	}
	effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	switch {
	case len(validation.IsQualifiedName(key)) > 0:
		return fmt.Errorf("%q is not the key of a taint, such as nvidia.com/gpu", key)
	case hasValue && len(validation.IsValidLabelValue(value)) > 0:
		return fmt.Errorf("%q is not the value of a taint", value)
	case hasEffect && !slices.Contains(effects, one.Effect):
		return fmt.Errorf("%q is no effect of a taint: it is NoSchedule, PreferNoSchedule or NoExecute", effect)
	}
	*t.tolerations = append(*t.tolerations, one)
	return nil
}
