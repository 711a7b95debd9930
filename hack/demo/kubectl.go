package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// kubectl runs the kubectl binary against the demo's cluster.
type kubectl struct {
	binary     string
	kubeconfig string
}

// run runs kubectl with the given standard input and returns its output; an
// error carries what kubectl said.
func (k kubectl) run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.binary, append([]string{"--kubeconfig", k.kubeconfig}, args...)...) //nolint:gosec // The binary is the demo's own flag.
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// applyKustomization builds a kustomization, puts the demo's image names in and
// applies it server-side.
func (k kubectl) applyKustomization(ctx context.Context, dir string, images imageNames) error {
	manifests, err := k.run(ctx, "", "kustomize", dir)
	if err != nil {
		return err
	}
	_, err = k.run(ctx, images.replace(manifests), "apply", "--server-side", "--force-conflicts", "--field-manager=t2-demo", "-f", "-")
	return err
}

// imageNames says where images come from and under which tag.
type imageNames struct {
	base, tag string
}

const (
	committedBase = "transformersquared.dev/"
	committedTag  = ":dev"
)

// replace puts the names of the demo's images where manifests have the
// committed ones. API groups start with the same domain, so only names that end
// in the committed tag are touched.
func (i imageNames) replace(manifests string) string {
	for _, image := range []string{"manager", "t2", "t2-cuda", "judge", "demo-assets"} {
		manifests = strings.ReplaceAll(manifests, committedBase+image+committedTag, i.base+"/"+image+":"+i.tag)
	}
	return manifests
}
