// Package layout says what a local cluster is called, where its files are and which addresses it uses. It decides and
// computes only; nothing here touches the machine, so every other package can agree on it and tests need no root.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	// PodCIDR holds the pods of all nodes. It exists only inside the cluster's network namespaces.
	PodCIDR = "10.244.0.0/16"
	// ServiceCIDR holds the service addresses. It exists only inside the cluster's network namespaces.
	ServiceCIDR = "10.96.0.0/16"
	// APIServiceIP is the address of the service "kubernetes": the first of ServiceCIDR, as the API server has it.
	APIServiceIP = "10.96.0.1"
	// DNSServiceIP is the address that pods find in resolv.conf. Nothing serves there: see README.md, "No DNS".
	DNSServiceIP = "10.96.0.10"
	// APIPort is where the API server listens on node 1.
	APIPort = 6443
	// DefaultSubnet joins the host and the nodes.
	DefaultSubnet = "10.99.0.0/24"
	// MaxNodes keeps node addresses and pod networks within one octet.
	MaxNodes = 100
	// PauseImage is the image of each pod's first process, built by us.
	PauseImage = "transformersquared.dev/pause:local"

	// maxName leaves room for "-host" in the kernel's 15 characters of an interface name.
	maxName = 10
	// maxDir leaves room below it for the longest path of a socket, the kubelet's, in the kernel's 107 characters.
	maxDir = 60
	// Marker is the file that says that a folder is a cluster's: the Cluster itself.
	Marker = "cluster.json"
	// ParentName is the folder that the state folders of all clusters are in by default.
	ParentName = "t2cluster"
)

// Switch is the name of the namespace that joins the nodes' links and owns the cluster's view of the file system.
const Switch = "switch"

var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

// Cluster names everything that belongs to one local cluster.
type Cluster struct {
	// Name is the cluster's name: lower-case letters, digits and dashes, at most 10.
	Name string `json:"name"`
	// Dir is the absolute folder that holds all of its state.
	Dir string `json:"dir"`
	// Bin is the absolute folder of the executables it runs.
	Bin string `json:"bin"`
	// Subnet is the IPv4 network that joins host (first address) and nodes (second address on).
	Subnet netip.Prefix `json:"subnet"`
	// Nodes is how many nodes it has.
	Nodes int `json:"nodes"`
	// Impatient says that a node is given up, and its pods, within seconds instead of minutes.
	Impatient bool `json:"impatient,omitempty"`
}

// New checks its arguments and returns the cluster they name. An empty subnet means DefaultSubnet.
func New(name, dir, bin, subnet string, nodes int) (Cluster, error) {
	if len(name) > maxName || !validName.MatchString(name) {
		return Cluster{}, fmt.Errorf("cluster name %q: want at most %d lower-case letters, digits and dashes, a letter first", name, maxName)
	}
	if nodes < 1 || nodes > MaxNodes {
		return Cluster{}, fmt.Errorf("%d nodes: want 1 to %d", nodes, MaxNodes)
	}
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		return Cluster{}, fmt.Errorf("state folder %q: want a clean absolute path", dir)
	}
	if len(dir) > maxDir {
		return Cluster{}, fmt.Errorf("state folder %s: its path is %d characters long, and a socket path below it has no room beyond %d; choose another with --dir", dir, len(dir), maxDir)
	}
	if err := checkHidden(dir, bin); err != nil {
		return Cluster{}, err
	}
	if subnet == "" {
		subnet = DefaultSubnet
	}
	prefix, err := ParseSubnet(subnet)
	if err != nil {
		return Cluster{}, err
	}
	return Cluster{Name: name, Dir: dir, Bin: bin, Subnet: prefix, Nodes: nodes}, nil
}

// ParseSubnet reads an IPv4 network of at most 24 bits, clear of the cluster's inner networks.
func ParseSubnet(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("subnet %q: want a network such as %s: %w", s, DefaultSubnet, err)
	}
	if !prefix.Addr().Is4() || prefix.Bits() > 24 || prefix.Masked() != prefix {
		return netip.Prefix{}, fmt.Errorf("subnet %q: want an IPv4 network of /24 or wider with no host bits, such as %s", s, DefaultSubnet)
	}
	for _, inner := range []string{PodCIDR, ServiceCIDR} {
		if prefix.Overlaps(netip.MustParsePrefix(inner)) {
			return netip.Prefix{}, fmt.Errorf("subnet %s overlaps %s, which the cluster uses inside; choose another with --subnet", prefix, inner)
		}
	}
	return prefix, nil
}

// FirstFree returns the first of 10.99.0.0/24 … 10.99.255.0/24 that overlaps none of taken.
func FirstFree(taken []netip.Prefix) (netip.Prefix, error) {
	for third := range 256 {
		candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(third), 0}), 24)
		if !OverlapsAny(candidate, taken) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, errors.New("every /24 of 10.99.0.0/16 is in use on this machine; choose a free network with --subnet")
}

// OverlapsAny reports whether p shares an address with one of taken. A default route overlaps nothing.
func OverlapsAny(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Bits() > 0 && p.Overlaps(t) {
			return true
		}
	}
	return false
}

// hidden lists the folders that the cluster's own mount namespace covers, so that no path it needs may lie there.
var hidden = append([]string{"/run", "/var/run", "/var/log"}, BorrowedDirs...)

// BorrowedDirs are paths that Kubernetes and containerd have compiled in. Inside the cluster's mount namespace each one
// is a folder of the cluster's own; on the machine it is at most an empty mount point that down removes again.
var BorrowedDirs = []string{VolumesDir, "/var/lib/kubelet", "/var/lib/cni"}

// VolumesDir is where the controller manager creates volumes: compiled in.
const VolumesDir = "/tmp/hostpath_pv"

func checkHidden(paths ...string) error {
	for _, path := range paths {
		for _, h := range hidden {
			if path == h || strings.HasPrefix(path, h+"/") {
				return fmt.Errorf("folder %s: the cluster has %s for itself, so nothing of it can lie there; choose another place", path, h)
			}
		}
	}
	return nil
}

// DefaultDir is where the state of a cluster goes when nobody says otherwise: below $XDG_STATE_HOME if that is set,
// otherwise /var/lib/t2cluster/<name>.
func DefaultDir(name string, getenv func(string) string) string {
	if home := getenv("XDG_STATE_HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ParentName, name)
	}
	return filepath.Join("/var/lib", ParentName, name)
}

// Save writes the cluster into its folder.
func (c Cluster) Save() error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", Marker, err)
	}
	if err := os.WriteFile(c.Path(Marker), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("saving the cluster's description: %w", err)
	}
	return nil
}

// Load reads the cluster that Save wrote into dir; the error wraps fs.ErrNotExist when there is none.
func Load(dir string) (Cluster, error) {
	text, err := os.ReadFile(filepath.Join(dir, Marker))
	if err != nil {
		return Cluster{}, fmt.Errorf("reading the cluster's description: %w", err)
	}
	var c Cluster
	if err := json.Unmarshal(text, &c); err != nil {
		return Cluster{}, fmt.Errorf("reading %s: %w", filepath.Join(dir, Marker), err)
	}
	checked, err := New(c.Name, c.Dir, c.Bin, c.Subnet.String(), c.Nodes)
	if err != nil {
		return Cluster{}, fmt.Errorf("reading %s: %w", filepath.Join(dir, Marker), err)
	}
	checked.Impatient = c.Impatient
	return checked, nil
}

// Path joins names below the cluster's folder.
func (c Cluster) Path(names ...string) string {
	return filepath.Join(append([]string{c.Dir}, names...)...)
}

// Kubeconfig is the administrator's kubeconfig, usable from the host.
func (c Cluster) Kubeconfig() string { return c.Path("kubeconfig") }

// LogsDir holds one log file a component.
func (c Cluster) LogsDir() string { return c.Path("logs") }

// PidsDir holds one pid file a process.
func (c Cluster) PidsDir() string { return c.Path("pids") }

// CgroupName is the cluster's folder in each cgroup hierarchy.
func (c Cluster) CgroupName() string { return "t2cluster-" + c.Name }

// HostLink is the one interface that the cluster adds to the machine.
func (c Cluster) HostLink() string { return c.Name + "-host" }

// HostIP is the machine's address on HostLink.
func (c Cluster) HostIP() netip.Addr { return c.Subnet.Addr().Next() }

// MachineRegistry is where nodes ask a registry without TLS, if this machine has one there.
func (c Cluster) MachineRegistry() string { return c.HostIP().String() + ":5000" }

// APIServer is the URL of the API server as seen from host and nodes.
func (c Cluster) APIServer() string {
	return "https://" + netip.AddrPortFrom(c.Node(1).IP, APIPort).String()
}

// AllNodes lists the nodes, the first one first.
func (c Cluster) AllNodes() []Node {
	nodes := make([]Node, c.Nodes)
	for i := range nodes {
		nodes[i] = c.Node(i + 1)
	}
	return nodes
}

// Node returns node number i, from 1.
func (c Cluster) Node(i int) Node {
	base := c.Subnet.Addr().As4()
	base[3] += byte(i + 1)
	return Node{
		cluster: c,
		Number:  i,
		Name:    c.Name + "-node-" + strconv.Itoa(i),
		IP:      netip.AddrFrom4(base),
		PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i - 1), 0}), 24),
	}
}

// Node is one machine of the cluster: a network namespace with a container runtime and a kubelet of its own.
type Node struct {
	cluster Cluster
	// Number counts from 1; node 1 also runs the control plane.
	Number int
	// Name is the Kubernetes name of the node.
	Name string
	// IP is its address on the cluster's subnet.
	IP netip.Addr
	// PodCIDR is the network of its pods.
	PodCIDR netip.Prefix
}

// Namespace is the name of the process that holds the node's network namespace, and of the node's folder.
func (n Node) Namespace() string { return "node-" + strconv.Itoa(n.Number) }

// Component names a process of this node, for logs and pid files.
func (n Node) Component(role string) string { return role + "-" + strconv.Itoa(n.Number) }

// Path joins names below the node's folder.
func (n Node) Path(names ...string) string {
	return n.cluster.Path(append([]string{n.Namespace()}, names...)...)
}

// ContainerdSocket is where the node's container runtime listens.
func (n Node) ContainerdSocket() string { return n.Path("containerd.sock") }

// CgroupRoot is the cgroup that holds the node's pods.
func (n Node) CgroupRoot() string { return "/" + n.cluster.CgroupName() + "/" + n.Namespace() }
