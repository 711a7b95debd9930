package sandbox

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
)

func cluster(t *testing.T, nodes int) layout.Cluster {
	t.Helper()
	c, err := layout.New("t2", "/s", "", "10.99.4.0/24", nodes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLinks(t *testing.T) {
	c := cluster(t, 2)
	tests := []struct {
		name      string
		got, want []string
	}{
		{name: "machine", got: hostLinks(c, 50), want: []string{
			"link add name t2-host type veth peer name host netns 50",
			"addr add 10.99.4.1/24 dev t2-host",
			"link set dev t2-host up",
		}},
		{name: "switch", got: switchLinks(c, []int{51, 52}), want: []string{
			"link set dev lo up",
			"link add name sw type bridge",
			"link set dev sw up",
			"link set dev host master sw",
			"link set dev host up",
			"link add name node-1 type veth peer name eth0 netns 51",
			"link set dev node-1 master sw",
			"link set dev node-1 up",
			"link add name node-2 type veth peer name eth0 netns 52",
			"link set dev node-2 master sw",
			"link set dev node-2 up",
		}},
		{name: "node 2", got: nodeLinks(c, c.Node(2)), want: []string{
			"link set dev lo up",
			"link set dev eth0 up",
			"addr add 10.99.4.3/24 dev eth0",
			"route add 10.96.0.0/16 dev lo src 10.99.4.3",
			"route add 10.244.0.0/24 via 10.99.4.2 src 10.99.4.3",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got); diff != "" {
				t.Errorf("ip commands (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNodesHaveNoDefaultRoute(t *testing.T) {
	c := cluster(t, 3)
	for _, n := range c.AllNodes() {
		for _, line := range nodeLinks(c, n) {
			if strings.Contains(line, "default") || strings.Contains(line, "0.0.0.0/0") {
				t.Errorf("%s: %q leads out of the cluster", n.Name, line)
			}
		}
	}
}

func TestParseRoutes(t *testing.T) {
	heading := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	tests := []struct {
		name, text string
		want       []string
		wantError  bool
	}{
		{name: "none", text: heading},
		{name: "a default route and a network", text: heading +
			"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", want: []string{"0.0.0.0/0", "192.0.2.0/24"}},
		{name: "too few columns", text: heading + "eth0\t00000000\n", wantError: true},
		{name: "no address", text: heading + "eth0\tzz\t0\t0\t0\t0\t0\t0\t0\t0\t0\n", wantError: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := parseRoutes(tt.text)
			if (err != nil) != tt.wantError {
				t.Fatalf("parseRoutes() = %v, want an error: %t", err, tt.wantError)
			}
			var got []string
			for _, r := range routes {
				got = append(got, r.String())
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTakenNetworksHasLoopback(t *testing.T) {
	taken, err := TakenNetworks()
	if err != nil {
		t.Fatal(err)
	}
	if !layout.OverlapsAny(netip.MustParsePrefix("127.0.0.0/8"), taken) {
		t.Errorf("no loopback among %v", taken)
	}
}

func TestNewVolumesAreOpenedAndOthersKeepTheirMode(t *testing.T) {
	dir := t.TempDir()
	// In one step, as the controller manager does: to set the mode afterwards would undo what is tested.
	mkdir := func(name string, mode os.FileMode) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	mkdir("before", freshVolume)
	mkdir("private", 0o700)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- shareVolumes(ctx, dir) }()
	mkdir("after", freshVolume)

	mode := func(name string) os.FileMode {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	deadline := time.Now().Add(10 * time.Second)
	for mode("before") != sharedVolume || mode("after") != sharedVolume {
		if time.Now().After(deadline) {
			t.Fatalf("modes: before %v, after %v, want %v", mode("before"), mode("after"), sharedVolume)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got := mode("private"); got != 0o700 {
		t.Errorf("a folder that is no fresh volume: mode %v, want 0700", got)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("shareVolumes() = %v, want no error when it is told to end", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("shareVolumes goes on after its context has ended")
	}
}

func TestArrangeMountsRefusesTheMachinesOwnNamespace(t *testing.T) {
	if err := arrangeMounts(t.TempDir()); err == nil || !strings.Contains(err.Error(), "refusing") {
		t.Fatalf("arrangeMounts() = %v, want a refusal", err)
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add("Iface\tDestination\neth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
	f.Add("Iface\neth0\tFF\n")
	f.Fuzz(func(t *testing.T, text string) {
		routes, err := parseRoutes(text)
		if err != nil {
			return
		}
		for _, r := range routes {
			if !r.IsValid() || r != r.Masked() {
				t.Errorf("parseRoutes(%q) gave %v, which is no network", text, r)
			}
		}
	})
}
