package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/bringup"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/image"
)

// nonroot is the user that images of Go programs run as by custom.
const nonroot = 65532

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func imageCommand() command {
	return command{
		name:    "image",
		summary: "Build a container image from files, without Docker.",
		detail: `The image has no base: it holds what --add brings, /etc/passwd and /etc/group with a user "nonroot", a /tmp that
everybody may write to, and this machine's trusted authorities. The same files always give the same image.`,
		example: "t2cluster image --out t2.tar --name transformersquared.dev/t2:dev --add ./t2:/t2 --entrypoint /t2",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var out string
			var add, entrypoint, cmd, variables list
			var spec image.Spec
			flags.StringVar(&out, "out", "", "tarball `file` to write")
			flags.StringVar(&spec.Name, "name", "", "`reference` of the image, with registry and tag")
			flags.Var(&add, "add", "file or folder to put in, as `source:target`; may be repeated")
			flags.Var(&entrypoint, "entrypoint", "`word` of the command line that always stands; may be repeated")
			flags.Var(&cmd, "cmd", "`word` of the command line that a pod's args replace; may be repeated")
			flags.Var(&variables, "env", "variable, as `NAME=value`; may be repeated")
			flags.StringVar(&spec.WorkingDir, "workdir", "", "`folder` in the image that it starts in (default /)")
			flags.IntVar(&spec.User, "user", nonroot, "`number` of the user and group that it runs as")
			flags.StringVar(&spec.Architecture, "arch", "", "`architecture` that its programs are for, such as arm64 (default this machine's)")
			flags.BoolVar(&spec.Certificates, "certificates", true, "put this machine's trusted authorities in")
			return func(_ context.Context, e env, args []string) error {
				switch {
				case len(args) > 0:
					return usagef("unexpected argument %q", args[0])
				case out == "" || spec.Name == "" || len(entrypoint) == 0:
					return usagef("--out, --name and --entrypoint are needed")
				case spec.User < 0:
					return usagef("--user %d: want a number from 0", spec.User)
				}
				for _, s := range add {
					a, err := image.ParseAddition(s)
					if err != nil {
						return usagef("--add %v", err)
					}
					spec.Add = append(spec.Add, a)
				}
				for _, v := range variables {
					if at := strings.IndexByte(v, '='); at <= 0 {
						return usagef("--env %q: want NAME=value", v)
					}
				}
				spec.Entrypoint, spec.Cmd, spec.Env = entrypoint, cmd, variables
				id, size, err := image.Write(spec, out)
				if err != nil {
					return err
				}
				fmt.Fprintf(e.stderr, "Wrote %s: %s, %.1f MB, %s\n", out, spec.Name, float64(size)/1e6, id)
				return nil
			}
		},
	}
}

func loadImageCommand() command {
	return command{
		name:    "load-image",
		args:    " TAR...",
		summary: "Load image tarballs into every node of a cluster.",
		detail: `Takes what t2cluster image, docker save or an OCI layout's tarball hold. Pods use such images with
imagePullPolicy: Never or IfNotPresent.`,
		example: "t2cluster load-image --name t2 bin/images/t2.tar bin/images/manager.tar",
		prepare: func(flags *flag.FlagSet) func(context.Context, env, []string) error {
			var w which
			w.declare(flags)
			return w.loadImages
		},
	}
}

func (w *which) loadImages(ctx context.Context, e env, files []string) error {
	if len(files) == 0 {
		return usagef("want at least one tarball")
	}
	c, err := w.existing(e)
	if err != nil {
		return err
	}
	for _, file := range files {
		file, err := filepath.Abs(file)
		if err != nil {
			return fmt.Errorf("image: %w", err)
		}
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("image: %w", err)
		}
		began := time.Now()
		for _, n := range c.AllNodes() {
			if err := bringup.LoadImage(ctx, c, n, file); err != nil {
				return err
			}
		}
		fmt.Fprintf(e.stderr, "Loaded %s in %s\n", file, time.Since(began).Round(100*time.Millisecond))
	}
	return nil
}
