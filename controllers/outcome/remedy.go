package outcome

import (
	"fmt"

	"github.com/transformersquared/operator/runtime/contract"
)

// Fields says where, in the user's object, a pod's needs are written: remedies
// name what to change there.
type Fields struct {
	// At is the path of resources, backend, gpu and podTemplate, such as
	// spec.serving.
	At string
	// Need is what makes the pod need less memory, of its device or of its own, as a clause; empty
	// where nothing there does.
	Need string
}

// memory is what a pod that is killed for its memory needs more of.
func (f Fields) memory() string { return f.At + ".resources.limits.memory" }

// remedy is what to do about what a pod's device lacks, or the pod itself; empty for other reasons.
// The runtime's own words say what is lacking, and how much.
func (f Fields) remedy(reason string) string {
	switch reason {
	case contract.ReasonNoDevice:
		return fmt.Sprintf("See that the node's driver works and that its libraries reach the container (%s.podTemplate.spec.runtimeClassName), "+
			"choose other nodes by %s.podTemplate.spec.nodeSelector, or set %s.backend to CPU", f.At, f.At, f.At)
	case contract.ReasonDeviceMemory:
		text := fmt.Sprintf("Choose a GPU with more memory by %s.gpu or %s.podTemplate.spec.nodeSelector", f.At, f.At)
		if f.Need != "" {
			text += ", or " + f.Need
		}
		return text
	case contract.ReasonHostMemory:
		text := "Raise " + f.memory()
		if f.Need != "" {
			text += ", or " + f.Need
		}
		return text
	case contract.ReasonDeviceUnsupported:
		return fmt.Sprintf("Choose nodes with a newer GPU or driver by %s.podTemplate.spec.nodeSelector, or set %s.backend to CPU", f.At, f.At)
	}
	return ""
}
