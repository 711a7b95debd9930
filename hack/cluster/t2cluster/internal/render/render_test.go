package render

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

func cluster(t *testing.T) layout.Cluster {
	t.Helper()
	c, err := layout.New("t2", "/s/t2", "/b", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func files(t *testing.T, c layout.Cluster, n layout.Node) map[string][]byte {
	t.Helper()
	got, err := NodeFiles(c, n, Host{Runc: "/usr/sbin/runc", CNIDir: "/usr/lib/cni", Snapshotter: "overlayfs"})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// lookup reads a value of a JSON document by its path.
func lookup(t *testing.T, document []byte, path ...string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatal(err)
	}
	for _, key := range path {
		object, isObject := value.(map[string]any)
		if !isObject {
			t.Fatalf("%v: no object to look %s up in", path, key)
		}
		value = object[key]
	}
	return value
}

func TestEveryFileOfANodeIsItsOwn(t *testing.T) {
	c := cluster(t)
	one, two := files(t, c, c.Node(1)), files(t, c, c.Node(2))
	for path := range one {
		if _, shared := two[path]; shared {
			t.Errorf("%s belongs to both nodes", path)
		}
		if !strings.HasPrefix(path, c.Node(1).Path()+"/") {
			t.Errorf("%s is outside the node's folder", path)
		}
	}
	// Two nodes on one machine get in each other's way by any path or address that they share.
	for name, mine := range one {
		other := two[c.Node(2).Path()+strings.TrimPrefix(name, c.Node(1).Path())]
		if slices.Contains([]string{"kube-proxy.json", "resolv.conf", "hosts.toml"}, filepath.Base(name)) {
			continue // none of them has anything written
		}
		if strings.Contains(string(other), c.Node(1).Path()) || strings.Contains(string(mine), c.Node(2).Path()) {
			t.Errorf("%s names the other node's folder", name)
		}
		if string(mine) == string(other) {
			t.Errorf("%s is the same for both nodes", name)
		}
	}
}

func TestKubeletIsSecuredAndFitsASmallMachine(t *testing.T) {
	c := cluster(t)
	n := c.Node(2)
	config := files(t, c, n)[n.Path("kubelet.json")]
	tests := []struct {
		path []string
		want any
	}{
		{path: []string{"authentication", "anonymous", "enabled"}, want: false},
		{path: []string{"authentication", "webhook", "enabled"}, want: true},
		{path: []string{"authorization", "mode"}, want: "Webhook"},
		{path: []string{"cgroupRoot"}, want: "/t2cluster-t2/node-2"},
		{path: []string{"failCgroupV1"}, want: false},
		{path: []string{"containerRuntimeEndpoint"}, want: "unix:///s/t2/node-2/containerd.sock"},
		{path: []string{"imageGCHighThresholdPercent"}, want: 100.0},
		{path: []string{"address"}, want: "10.99.0.3"},
	}
	for _, tt := range tests {
		if got := lookup(t, config, tt.path...); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.path, got, tt.want)
		}
	}
}

func TestPodNetworkOfANode(t *testing.T) {
	c := cluster(t)
	n := c.Node(2)
	text := string(files(t, c, n)[n.Path("cni", "10-pods.conflist")])
	if !strings.Contains(text, `"subnet": "10.244.1.0/24"`) {
		t.Errorf("node 2's pods have the wrong network:\n%s", text)
	}
}

func TestContainerdQuotesPaths(t *testing.T) {
	c := cluster(t)
	c.Bin = `/home/a "b"/bin`
	n := c.Node(1)
	text := string(files(t, c, n)[n.Path("containerd.toml")])
	for _, want := range []string{
		`runtime_path = "/home/a \"b\"/bin/containerd-shim-runc-v2"`,
		`address = "/s/t2/node-1/containerd.sock"`,
		`sandbox = "` + layout.PauseImage + `"`,
		"restrict_oom_score_adj = true",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
}

func TestNodesAskARegistryOfTheMachineWithoutTLS(t *testing.T) {
	c := cluster(t)
	n := c.Node(2)
	all := files(t, c, n)
	if want := fmt.Sprintf("config_path = %q", n.Path("registries")); !strings.Contains(string(all[n.Path("containerd.toml")]), want) {
		t.Errorf("containerd is not told %s", want)
	}
	host := c.HostIP().String() + ":5000"
	if got := string(all[n.Path("registries", host, "hosts.toml")]); !strings.Contains(got, `server = "http://`+host+`"`) {
		t.Errorf("%s is asked so:\n%s", host, got)
	}
}

func TestControlPlaneListensWhereItShould(t *testing.T) {
	c := cluster(t)
	tests := []struct {
		component Component
		want      []string
	}{
		{component: Etcd(c), want: []string{"--listen-client-urls=http://127.0.0.1:2379", "--unsafe-no-fsync=true"}},
		{component: APIServer(c), want: []string{"--authorization-mode=Node,RBAC", "--advertise-address=10.99.0.2", "--service-cluster-ip-range=10.96.0.0/16"}},
		{component: ControllerManager(c), want: []string{"--bind-address=127.0.0.1", "--enable-hostpath-provisioner=true"}},
		{component: Scheduler(c), want: []string{"--bind-address=127.0.0.1"}},
		{component: Kubelet(c, c.Node(2)), want: []string{"--node-ip=10.99.0.3", "--hostname-override=t2-node-2"}},
	}
	for _, tt := range tests {
		for _, want := range tt.want {
			if !slices.Contains(tt.component.Args, want) {
				t.Errorf("%s: no %s in %v", tt.component.Name, want, tt.component.Args)
			}
		}
	}
}

// An aggregated API believes the API server's headers if its certificate is of the authority, and has the name, that the
// API server publishes.
func TestTheAPIServerAggregates(t *testing.T) {
	c := cluster(t)
	for _, want := range []string{
		"--requestheader-client-ca-file=/s/t2/pki/front-proxy-ca.crt",
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=/s/t2/pki/front-proxy-client.crt",
		"--proxy-client-key-file=/s/t2/pki/front-proxy-client.key",
	} {
		if args := APIServer(c).Args; !slices.Contains(args, want) {
			t.Errorf("no %s in %v", want, args)
		}
	}
}

// A node that is lost is found out, and left, by three components together.
func TestAnImpatientClusterGivesUpNodesSooner(t *testing.T) {
	patient := cluster(t)
	impatient := patient
	impatient.Impatient = true
	for _, tt := range []struct {
		component func(layout.Cluster) Component
		want      []string
	}{
		{APIServer, []string{"--default-not-ready-toleration-seconds=20", "--default-unreachable-toleration-seconds=20"}},
		{ControllerManager, []string{"--node-monitor-grace-period=16s", "--node-monitor-period=1s"}},
	} {
		args := tt.component(impatient).Args
		if diff := cmp.Diff(append(slices.Clone(tt.component(patient).Args), tt.want...), args); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	lease := func(c layout.Cluster) any {
		n := c.Node(2)
		return lookup(t, files(t, c, n)[n.Path("kubelet.json")], "nodeLeaseDurationSeconds")
	}
	if patient, impatient := lease(patient), lease(impatient); patient != nil || impatient != 20.0 {
		t.Errorf("leases of %v and %v seconds, want Kubernetes' own and 20", patient, impatient)
	}
}

func TestKubeconfigHoldsItsKeys(t *testing.T) {
	got, err := Kubeconfig("t2", "admin", "https://10.99.0.2:6443", []byte("authority"), pki.Pair{Cert: []byte("cert"), Key: []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	if current := lookup(t, got, "current-context"); current != "t2" {
		t.Errorf("current context: %v", current)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(got, &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		t.Fatalf("got %d clusters and %d users, want 1 of each", len(config.Clusters), len(config.Users))
	}
	want := []string{"https://10.99.0.2:6443", "authority", "cert", "key"}
	entry := config.Clusters[0].Cluster
	if diff := cmp.Diff(want, []string{entry.Server, string(entry.CA), string(config.Users[0].User.Cert), string(config.Users[0].User.Key)}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
