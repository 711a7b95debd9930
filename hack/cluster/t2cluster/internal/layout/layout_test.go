package layout

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestNewRefusesWhatTheKernelOrTheClusterCannotCarry(t *testing.T) {
	tests := []struct {
		name                 string
		cluster, dir, subnet string
		bin                  string
		nodes                int
		wantError            string
	}{
		{name: "a usual cluster", cluster: "t2", dir: "/var/lib/t2cluster/t2", nodes: 1},
		{name: "a name as long as an interface name allows", cluster: "abcdefghij", dir: "/s", nodes: 1},
		{name: "a name too long for an interface", cluster: "abcdefghijk", dir: "/s", nodes: 1, wantError: "at most 10"},
		{name: "no name", cluster: "", dir: "/s", nodes: 1, wantError: "at most 10"},
		{name: "a name with a slash", cluster: "a/b", dir: "/s", nodes: 1, wantError: "letters, digits and dashes"},
		{name: "a name that ends in a dash", cluster: "a-", dir: "/s", nodes: 1, wantError: "letters, digits and dashes"},
		{name: "a name that starts with a digit", cluster: "2t", dir: "/s", nodes: 1, wantError: "a letter first"},
		{name: "no node", cluster: "t2", dir: "/s", nodes: 0, wantError: "1 to 100"},
		{name: "more nodes than pod networks", cluster: "t2", dir: "/s", nodes: 101, wantError: "1 to 100"},
		{name: "a relative folder", cluster: "t2", dir: "s", nodes: 1, wantError: "absolute"},
		{name: "a folder with dots", cluster: "t2", dir: "/a/../s", nodes: 1, wantError: "clean"},
		{name: "a folder that leaves no room for a socket", cluster: "t2", dir: "/" + strings.Repeat("a", 60), nodes: 1, wantError: "socket"},
		{name: "a folder that the cluster hides", cluster: "t2", dir: "/run/t2", nodes: 1, wantError: "/run"},
		{name: "executables in a folder that the cluster hides", cluster: "t2", dir: "/s", bin: "/var/log/bin", nodes: 1, wantError: "/var/log"},
		{name: "a folder whose name begins like a hidden one", cluster: "t2", dir: "/running", nodes: 1},
		{name: "a subnet that is no network", cluster: "t2", dir: "/s", nodes: 1, subnet: "ten", wantError: "want a network"},
		{name: "a subnet with host bits", cluster: "t2", dir: "/s", nodes: 1, subnet: "10.99.0.1/24", wantError: "no host bits"},
		{name: "a subnet too small", cluster: "t2", dir: "/s", nodes: 1, subnet: "10.99.0.0/25", wantError: "/24 or wider"},
		{name: "a subnet of IPv6", cluster: "t2", dir: "/s", nodes: 1, subnet: "fd00::/64", wantError: "IPv4"},
		{name: "a subnet within the pods' network", cluster: "t2", dir: "/s", nodes: 1, subnet: "10.244.7.0/24", wantError: "10.244.0.0/16"},
		{name: "a subnet around the services' network", cluster: "t2", dir: "/s", nodes: 1, subnet: "10.0.0.0/8", wantError: "overlaps"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cluster, tt.dir, tt.bin, tt.subnet, tt.nodes)
			if tt.wantError == "" {
				if err != nil {
					t.Fatalf("New() = %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantError) {
				t.Fatalf("New() = %v, want an error with %q", err, tt.wantError)
			}
		})
	}
}

func TestAddressesOfHostAndNodes(t *testing.T) {
	c, err := New("t2", "/s", "/bin", "10.99.7.0/24", 100)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.HostIP().String(), "10.99.7.1"; got != want {
		t.Errorf("host: got %s, want %s", got, want)
	}
	if got, want := c.APIServer(), "https://10.99.7.2:6443"; got != want {
		t.Errorf("API server: got %s, want %s", got, want)
	}
	seen := map[string]bool{c.HostIP().String(): true}
	for _, n := range c.AllNodes() {
		if !c.Subnet.Contains(n.IP) || seen[n.IP.String()] {
			t.Errorf("%s: address %s is taken or outside %s", n.Name, n.IP, c.Subnet)
		}
		if !netip.MustParsePrefix(PodCIDR).Overlaps(n.PodCIDR) || seen[n.PodCIDR.String()] {
			t.Errorf("%s: pod network %s is taken or outside %s", n.Name, n.PodCIDR, PodCIDR)
		}
		seen[n.IP.String()], seen[n.PodCIDR.String()] = true, true
		for _, socket := range []string{"containerd.sock.ttrpc", "kubelet/pod-resources/kubelet.sock"} {
			if long := filepath.Join("/"+strings.Repeat("a", maxDir-1), n.Namespace(), socket); len(long) > 107 {
				t.Errorf("%s: a socket path of %d characters, and the kernel takes 107", n.Name, len(long))
			}
		}
	}
	if got, want := c.Node(100).Name, "t2-node-100"; got != want {
		t.Errorf("last node: got %s, want %s", got, want)
	}
}

func TestFirstFreeSkipsWhatTheMachineUses(t *testing.T) {
	tests := []struct {
		name  string
		taken []string
		want  string
	}{
		{name: "nothing taken", want: "10.99.0.0/24"},
		{name: "a default route takes nothing", taken: []string{"0.0.0.0/0"}, want: "10.99.0.0/24"},
		{name: "the first is taken", taken: []string{"10.99.0.0/24"}, want: "10.99.1.0/24"},
		{name: "part of the first is taken", taken: []string{"10.99.0.128/25"}, want: "10.99.1.0/24"},
		{name: "a wider network covers the first half", taken: []string{"10.99.0.0/17"}, want: "10.99.128.0/24"},
		{name: "everything is taken", taken: []string{"10.0.0.0/8"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, s := range tt.taken {
				taken = append(taken, netip.MustParsePrefix(s))
			}
			got, err := FirstFree(taken)
			if tt.want == "" {
				if err == nil {
					t.Fatalf("FirstFree() = %s, want an error", got)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Fatalf("FirstFree() = %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestSaveAndLoad(t *testing.T) {
	dir, err := os.MkdirTemp("", "t2") //nolint:usetesting // shorter than the test's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := Cluster{Name: "t2", Dir: "/s", Bin: "/b", Subnet: netip.MustParsePrefix("10.99.3.0/24"), Nodes: 2, Impatient: true}
	stored := c
	stored.Dir = dir
	if err := stored.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("Load after Save (-saved +loaded):\n%s", diff)
	}
}

func TestLoadRefusesWhatIsNoCluster(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: got %v, want fs.ErrNotExist", err)
	}
	for name, text := range map[string]string{
		"cut short":            `{"name": "t2", "di`,
		"a name that escapes":  `{"name": "../../etc", "dir": "/s", "subnet": "10.99.0.0/24", "nodes": 1}`,
		"a folder not its own": `{"name": "t2", "dir": "relative", "subnet": "10.99.0.0/24", "nodes": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, Marker), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if c, err := Load(dir); err == nil {
				t.Errorf("Load() = %+v, want an error", c)
			}
		})
	}
}

func TestDefaultDir(t *testing.T) {
	tests := []struct{ name, home, want string }{
		{name: "no state home", want: "/var/lib/t2cluster/x"},
		{name: "a state home", home: "/home/ada/.local/state", want: "/home/ada/.local/state/t2cluster/x"},
		{name: "a relative state home, which its standard says to ignore", home: "state", want: "/var/lib/t2cluster/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := DefaultDir("x", func(string) string { return tt.home }); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
