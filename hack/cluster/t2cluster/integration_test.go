package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/cgroups"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/image"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/mounts"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

const (
	// binVariable names the folder of executables; without it the tests that bring clusters up are skipped.
	binVariable = "T2CLUSTER_BIN"
	// asTool makes the test's executable behave as the tool, so that tests can run it as a process and kill it.
	asTool = "T2CLUSTER_TEST_AS_TOOL"

	testCluster = "it"
	podBound    = 90 * time.Second
)

func TestMain(m *testing.M) {
	// The tool starts itself to hold namespaces, and passes no variables on.
	if os.Getenv(asTool) != "" || len(os.Args) > 1 && os.Args[1] == process.HoldCommand {
		main()
	}
	os.Exit(m.Run())
}

// rig is one test's cluster.
type rig struct {
	t   *testing.T
	bin string
	dir string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	bin := os.Getenv(binVariable)
	if bin == "" {
		t.Skipf("%s is not set: it names the folder of executables that `t2cluster build` made", binVariable)
	}
	parent, err := os.MkdirTemp("", "t2") //nolint:usetesting // Sockets want short paths.
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, bin: bin, dir: filepath.Join(parent, layout.ParentName, testCluster)}
	before := footprint(t)
	t.Cleanup(func() {
		r.tool("down")
		if diff := cmp.Diff(before, footprint(t)); diff != "" {
			t.Errorf("traces on the machine (-before +after):\n%s", diff)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
			t.Errorf("files left: %v, %v", entries, err)
		}
		if err := os.RemoveAll(parent); err != nil {
			t.Error(err)
		}
	})
	return r
}

// footprint is what a cluster could leave on the machine beside files in its own folder.
func footprint(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		found["links"] = append(found["links"], link.Name())
	}
	table, err := mounts.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		found["mounts"] = append(found["mounts"], m.Point)
	}
	hierarchies := cgroups.Find(table)
	for _, root := range append(hierarchies.V1, hierarchies.V2) {
		groups, err := filepath.Glob(filepath.Join(root, "*"+testCluster+"*"))
		if err != nil {
			t.Fatal(err)
		}
		found["cgroups"] = append(found["cgroups"], groups...)
	}
	all, err := process.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		line := strings.Join(p.Command, " ")
		if !p.Zombie && strings.Contains(line, "/"+layout.ParentName+"/"+testCluster) {
			found["processes"] = append(found["processes"], line)
		}
	}
	for _, dir := range append([]string{"/run/netns", "/run/containerd", "/var/log/containers", "/var/log/pods", "/run/xtables.lock"}, layout.BorrowedDirs...) {
		if _, err := os.Lstat(dir); err == nil {
			found["folders"] = append(found["folders"], dir)
		}
	}
	for _, setting := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward", "kernel/keys/root_maxkeys"} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if err != nil {
			t.Fatal(err)
		}
		found["settings"] = append(found["settings"], setting+"="+strings.TrimSpace(string(value)))
	}
	rules, err := exec.Command("iptables-save").CombinedOutput()
	if err != nil {
		t.Fatalf("iptables-save: %v: %s", err, rules)
	}
	for line := range strings.Lines(string(rules)) {
		if strings.HasPrefix(line, "-A") { // comments and counters change by themselves
			found["packet filter"] = append(found["packet filter"], line)
		}
	}
	for kind := range found {
		slices.Sort(found[kind])
	}
	return found
}

func (r *rig) command(ctx context.Context, args ...string) *exec.Cmd {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	args = append([]string{args[0], "--name", testCluster, "--dir", r.dir}, args[1:]...)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asTool+"=1")
	return cmd
}

// tool runs the tool and fails the test if it fails.
func (r *rig) tool(args ...string) string {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	// The test's own context has ended when its cleanup calls this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 5*time.Minute)
	defer cancel()
	cmd := r.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("t2cluster %v: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	r.t.Logf("t2cluster %v\n%s", args, stderr.String())
	return stdout.String()
}

func (r *rig) kubectl(args ...string) string {
	r.t.Helper()
	out, err := r.tryKubectl(args...)
	if err != nil {
		r.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return out
}

func (r *rig) tryKubectl(args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.bin, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(r.dir, "kubeconfig"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// probeImage builds the image that the pods of the test run.
func (r *rig) probeImage() string {
	r.t.Helper()
	dir := r.t.TempDir()
	program := filepath.Join(dir, "probe")
	build := exec.CommandContext(r.t.Context(), "go", "build", "-o", program, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		r.t.Fatalf("building the probe: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "probe.tar")
	spec := image.Spec{
		Name: "example.dev/probe:test", Entrypoint: []string{"/probe"}, User: nonroot,
		Add: []image.Addition{{Source: program, Target: "/probe"}},
	}
	if _, _, err := image.Write(spec, file); err != nil {
		r.t.Fatal(err)
	}
	return file
}

func TestClusterOfTwoNodesRunsRealWorkloads(t *testing.T) {
	r := newRig(t)
	r.tool("up", "--bin", r.bin, "--nodes", "2")
	r.tool("status")
	r.tool("up", "--bin", r.bin, "--nodes", "2") // is up already
	r.tool("load-image", r.probeImage())
	r.kubectl("apply", "-f", filepath.Join("testdata", "workload.yaml"))

	r.kubectl("-n", "probe", "wait", "--for=condition=Complete", "job/writer", "--timeout="+podBound.String())
	if got := r.kubectl("-n", "probe", "logs", "job/writer"); got != fmt.Sprintf("wrote as user %d\n", nonroot) {
		t.Errorf("log of the writer: %q", got)
	}
	r.kubectl("-n", "probe", "rollout", "status", "daemonset/server", "--timeout="+podBound.String())

	pods := strings.Fields(r.kubectl("-n", "probe", "get", "pods", "-l", "app=server", "-o", "jsonpath={.items[*].metadata.name}"))
	addresses := strings.Fields(r.kubectl("-n", "probe", "get", "pods", "-l", "app=server", "-o", "jsonpath={.items[*].status.podIP}"))
	if len(pods) != 2 || len(addresses) != 2 {
		t.Fatalf("servers: %v at %v, want one on each node", pods, addresses)
	}
	service := r.kubectl("-n", "probe", "get", "service", "server", "-o", "jsonpath={.spec.clusterIP}")
	for _, pod := range pods {
		// Several times, because a service picks one of its pods by chance: the caller itself, and one on the other node.
		for range 4 {
			if got := r.kubectl("-n", "probe", "exec", pod, "--", "/probe", "get", "http://"+service+"/message"); got != "hello\n" {
				t.Errorf("from %s by way of the service: %q", pod, got)
			}
		}
		for _, address := range addresses {
			if got := r.kubectl("-n", "probe", "exec", pod, "--", "/probe", "get", "http://"+address+":8080/message"); got != "hello\n" {
				t.Errorf("from %s directly to %s: %q", pod, address, got)
			}
		}
	}
	if got := r.kubectl("get", "--raw", "/api/v1/namespaces/probe/services/server:80/proxy/message"); got != "hello\n" {
		t.Errorf("from the machine by way of the API server: %q", got)
	}
	for _, url := range []string{"http://name.example/", "http://192.0.2.2/"} {
		began := time.Now()
		if out, err := r.tryKubectl("-n", "probe", "exec", pods[0], "--", "/probe", "get", url); err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("%s, which no pod can reach: %q, %v after %s, want a quick refusal", url, out, err, time.Since(began))
		}
	}
	if events := r.kubectl("-n", "probe", "get", "events", "--field-selector=type=Warning"); strings.Contains(events, "DNS") {
		t.Errorf("warnings about DNS:\n%s", events)
	}
	if nodes := r.kubectl("get", "--raw", "/api/v1/nodes/"+testCluster+"-node-2/proxy/stats/summary"); !strings.Contains(nodes, `"podRef"`) {
		t.Errorf("the kubelet's statistics name no pod:\n%.400s", nodes)
	}
	r.refuses("by Pod Security", "violates PodSecurity", "-n", "probe", "run", "root", "--image=example.dev/probe:test")
	r.refuses("by authorization", "forbidden", "--as=system:serviceaccount:default:default", "get", "secrets", "-A")
	if got := r.tool("logs", "--tail", "1", "kubelet-2"); strings.Count(got, "\n") != 1 {
		t.Errorf("the last line of a log: %q", got)
	}
}

// refuses checks that kubectl fails for the given reason.
func (r *rig) refuses(who, reason string, args ...string) {
	r.t.Helper()
	if out, err := r.tryKubectl(args...); err == nil || !strings.Contains(out, reason) {
		r.t.Errorf("%s: kubectl %v gave %q, %v, want a refusal with %q", who, args, out, err, reason)
	}
}

func TestDownRemovesWhatAKilledUpLeft(t *testing.T) {
	// What up says last before it is killed; the empty text means that it is killed as soon as it says anything.
	for _, last := range []string{"", "made the namespaces", "container runtime is ready", "API server is ready"} {
		t.Run("after "+last, func(t *testing.T) {
			r := newRig(t)
			cmd := r.command(t.Context(), "up", "--bin", r.bin)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stderr)
			for lines.Scan() && !strings.Contains(lines.Text(), last) {
				t.Log(lines.Text())
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, stderr)
			if err := cmd.Wait(); err == nil {
				t.Fatal("up was done before it was killed")
			}
			// The cleanup of the rig calls down and looks for traces.
		})
	}
}

func TestUpStartsAfreshOverACrashedCluster(t *testing.T) {
	r := newRig(t)
	r.tool("up", "--bin", r.bin)
	remembered, err := process.Recall(filepath.Join(r.dir, "pids"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range remembered {
		if p.Name != "etcd" && p.Name != layout.Switch {
			continue
		}
		info, running := p.Running()
		if !running {
			t.Fatalf("%s does not run", p.Name)
		}
		if err := exec.Command("kill", "-9", fmt.Sprint(info.PID)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := r.command(t.Context(), "status")
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "has ended") {
		t.Errorf("status of a crashed cluster: %v\n%s", err, out)
	}
	r.tool("up", "--bin", r.bin)
	r.tool("status")
	c, err := layout.Load(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !netip.MustParsePrefix("10.99.0.0/16").Overlaps(c.Subnet) {
		t.Errorf("subnet %s", c.Subnet)
	}
}
