package runs

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/transformersquared/operator/controllers/outcome"
	"github.com/transformersquared/operator/controllers/podclient"
	"github.com/transformersquared/operator/runtime/contract"
)

// Ask asks the pod that runs how far it is, and on which device, which the outcome then
// has. It is false of a pod that does not answer: what was known stays.
func Ask(ctx context.Context, pods *podclient.Client, out *outcome.Outcome) (contract.Progress, bool) {
	progress, err := pods.Progress(ctx, out.Pod)
	if err != nil {
		log.FromContext(ctx).V(1).Info("Could not ask a pod for its progress", "pod", out.Pod.Name, "error", err.Error())
		return contract.Progress{}, false
	}
	out.Device = progress.Device
	return progress, true
}
