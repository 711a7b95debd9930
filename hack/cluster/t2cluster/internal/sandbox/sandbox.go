package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/process"
)

// holdBound is how long a holder may take to arrange its namespace.
const holdBound = 10 * time.Second

// Sandbox is the place of a running cluster.
type Sandbox struct {
	// Switch holds the mount namespace and the network namespace that joins the nodes.
	Switch *process.Started
	// Nodes hold the network namespace of each node.
	Nodes []*process.Started
}

// Node returns the namespaces that the programs of node number i, from 1, join.
func (s *Sandbox) Node(i int) process.Namespaces {
	return process.Namespaces{Mount: s.Switch.PID, Net: s.Nodes[i-1].PID}
}

// Find returns the namespaces of a running cluster that the holder of this name holds: of a node, or of layout.Switch.
func Find(c layout.Cluster, holder string) (process.Namespaces, error) {
	remembered, err := process.Recall(c.PidsDir())
	if err != nil {
		return process.Namespaces{}, err
	}
	var in process.Namespaces
	for _, r := range remembered {
		info, running := r.Running()
		if running && r.Name == layout.Switch {
			in.Mount = info.PID
		}
		if running && r.Name == holder {
			in.Net = info.PID
		}
	}
	if in.Mount == 0 || in.Net == 0 {
		return process.Namespaces{}, fmt.Errorf("%s of cluster %s is not running; see `t2cluster status`", holder, c.Name)
	}
	return in, nil
}

// Make starts the holders of c's namespaces and joins them. exe is this tool. The folders that BorrowedDirs names are
// made on the machine if they are missing, after a note of it in c's folder, so that they can be removed later.
func Make(ctx context.Context, c layout.Cluster, exe string) (*Sandbox, error) {
	if err := borrow(c); err != nil {
		return nil, err
	}
	s := &Sandbox{}
	var err error
	if s.Switch, err = hold(ctx, c, exe, layout.Switch, process.Namespaces{}, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, "--mounts"); err != nil {
		return nil, err
	}
	for _, n := range c.AllNodes() {
		node, err := hold(ctx, c, exe, n.Namespace(), process.Namespaces{Mount: s.Switch.PID}, syscall.CLONE_NEWNET)
		if err != nil {
			return nil, err
		}
		s.Nodes = append(s.Nodes, node)
	}
	if err := s.join(ctx, c); err != nil {
		return nil, err
	}
	return s, nil
}

// BorrowedFile lists, in a cluster's folder, the empty folders that it made on the machine as mount points.
const BorrowedFile = "borrowed-dirs"

func borrow(c layout.Cluster) error {
	var missing []string
	for _, dir := range layout.BorrowedDirs {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, dir)
		} else if err != nil {
			return fmt.Errorf("looking at a folder that Kubernetes uses: %w", err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	// The note comes first: a crash in between must not leave a folder that nobody knows to remove.
	if err := os.WriteFile(c.Path(BorrowedFile), []byte(strings.Join(missing, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("noting which folders are made: %w", err)
	}
	for _, dir := range missing {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making a mount point: %w", err)
		}
	}
	return nil
}

func hold(ctx context.Context, c layout.Cluster, exe, name string, in process.Namespaces, fresh uintptr, flags ...string) (*process.Started, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer read.Close() //nolint:errcheck // only read from
	argv := append([]string{exe, process.HoldCommand, "--dir=" + c.Dir}, flags...)
	started, err := process.Start(process.Program{
		Name: name, Argv: argv, In: in, NewNamespaces: fresh, LogsDir: c.LogsDir(), PidsDir: c.PidsDir(), Output: write,
	})
	_ = write.Close() // the holder has it now
	if err != nil {
		return nil, err
	}
	if err := read.SetReadDeadline(time.Now().Add(holdBound)); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil || line != ready {
		said, _ := os.ReadFile(started.Log)
		return nil, fmt.Errorf("holding the namespace %s: it did not become ready (%w): %s", name, errors.Join(err, ctx.Err()), strings.TrimSpace(string(said)))
	}
	return started, nil
}

// Settings of the network namespace of whoever writes to them.
const (
	forwardFile = "/proc/sys/net/ipv4/ip_forward"
	// The kernel sends few refusals a second to one address. A pod that asks for a name sends a dozen queries at once,
	// and would wait seconds for each that is not refused.
	refusalsFile = "/proc/sys/net/ipv4/icmp_ratelimit"
)

// join links machine, switch and nodes. The machine gets one interface and one address, nothing else.
func (s *Sandbox) join(ctx context.Context, c layout.Cluster) error {
	here, sw := process.Namespaces{}, process.Namespaces{Mount: s.Switch.PID, Net: s.Switch.PID}
	if err := ipBatch(ctx, here, hostLinks(c, s.Switch.PID)); err != nil {
		return fmt.Errorf("linking the machine to the cluster: %w", err)
	}
	pids := make([]int, len(s.Nodes))
	for i, node := range s.Nodes {
		pids[i] = node.PID
	}
	if err := ipBatch(ctx, sw, switchLinks(c, pids)); err != nil {
		return fmt.Errorf("making the switch between the nodes: %w", err)
	}
	for _, n := range c.AllNodes() {
		in := s.Node(n.Number)
		if err := ipBatch(ctx, in, nodeLinks(c, n)); err != nil {
			return fmt.Errorf("setting up the network of %s: %w", n.Name, err)
		}
		if err := process.Run(ctx, in, nil, "sh", "-c", "echo 1 > "+forwardFile+" && echo 0 > "+refusalsFile); err != nil {
			return fmt.Errorf("turning routing on in %s: %w", n.Name, err)
		}
		if err := process.Run(ctx, in, nil, masquerade()...); err != nil {
			return fmt.Errorf("setting up the network of %s: %w", n.Name, err)
		}
	}
	return nil
}

func ipBatch(ctx context.Context, in process.Namespaces, lines []string) error {
	return process.Run(ctx, in, strings.NewReader(strings.Join(lines, "\n")+"\n"), "ip", "-batch", "-")
}

// hostLinks are the ip commands for the machine's own namespace.
func hostLinks(c layout.Cluster, switchPID int) []string {
	return []string{
		fmt.Sprintf("link add name %s type veth peer name host netns %d", c.HostLink(), switchPID),
		fmt.Sprintf("addr add %s/%d dev %s", c.HostIP(), c.Subnet.Bits(), c.HostLink()),
		fmt.Sprintf("link set dev %s up", c.HostLink()),
	}
}

// switchLinks are the ip commands for the switch. It has no address and no packet filter of its own, so that frames
// between nodes pass whatever filter the machine has for its own bridges.
func switchLinks(c layout.Cluster, nodePIDs []int) []string {
	lines := []string{"link set dev lo up", "link add name sw type bridge", "link set dev sw up", "link set dev host master sw", "link set dev host up"}
	for i, n := range c.AllNodes() {
		port := n.Namespace()
		lines = append(lines,
			fmt.Sprintf("link add name %s type veth peer name eth0 netns %d", port, nodePIDs[i]),
			fmt.Sprintf("link set dev %s master sw", port),
			fmt.Sprintf("link set dev %s up", port))
	}
	return lines
}

// nodeLinks are the ip commands for node n.
func nodeLinks(c layout.Cluster, n layout.Node) []string {
	lines := []string{
		"link set dev lo up",
		"link set dev eth0 up",
		fmt.Sprintf("addr add %s/%d dev eth0", n.IP, c.Subnet.Bits()),
		// A packet to a service needs some route before kube-proxy's rules get to rewrite it. This one leads nowhere, so
		// that before there are rules none can leave the machine. There is no other way out, and no default route.
		fmt.Sprintf("route add %s dev lo src %s", layout.ServiceCIDR, n.IP),
	}
	for _, other := range c.AllNodes() {
		if other.Number != n.Number {
			lines = append(lines, fmt.Sprintf("route add %s via %s src %s", other.PodCIDR, other.IP, n.IP))
		}
	}
	return lines
}

// masquerade gives pods the address of their node when they talk to anything but pods, such as the machine itself.
// Between pods addresses stay as they are, across nodes too.
func masquerade() []string {
	return []string{"iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", layout.PodCIDR, "!", "-d", layout.PodCIDR, "-j", "MASQUERADE"}
}
