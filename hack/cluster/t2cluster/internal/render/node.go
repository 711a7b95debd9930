package render

import (
	"bytes"
	"text/template"

	"fmt"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

// Containerd is the container runtime of a node.
func Containerd(n layout.Node) Component {
	return Component{Name: n.Component("containerd"), Executable: "containerd", Args: []string{
		"--config=" + n.Path("containerd.toml"),
	}}
}

// Kubelet runs the pods of a node.
func Kubelet(c layout.Cluster, n layout.Node) Component {
	return Component{Name: n.Component("kubelet"), Executable: "kubelet", Args: []string{
		"--config=" + n.Path("kubelet.json"),
		"--kubeconfig=" + KubeconfigFile(c, n.Component(pki.Kubelet)),
		"--root-dir=" + n.Path("kubelet"),
		"--cert-dir=" + n.Path("kubelet", "pki"),
		"--hostname-override=" + n.Name,
		// Without it the node has no address: logs and exec fail, and kube-proxy waits half a minute for one.
		"--node-ip=" + n.IP.String(),
		"--v=1",
	}}
}

// Proxy makes services reachable from a node and its pods.
func Proxy(n layout.Node) Component {
	return Component{Name: n.Component("kube-proxy"), Executable: "kube-proxy", Args: []string{
		"--config=" + n.Path("kube-proxy.json"),
		"--hostname-override=" + n.Name,
	}}
}

// Host is what the rendered files need to know about the machine.
type Host struct {
	// Runc is the path of the low-level container runtime.
	Runc string
	// CNIDir holds the network plugins.
	CNIDir string
	// Snapshotter is containerd's way to stack image layers: overlayfs, or native where the state folder cannot carry
	// an overlay.
	Snapshotter string
}

// NodeFiles returns the configuration files of node n, by path.
func NodeFiles(c layout.Cluster, n layout.Node, host Host) (map[string][]byte, error) {
	containerd, err := containerdConfig(c, n, host)
	if err != nil {
		return nil, err
	}
	kubelet, err := document(kubeletConfig(c, n))
	if err != nil {
		return nil, err
	}
	proxy, err := document(proxyConfig(c))
	if err != nil {
		return nil, err
	}
	network, err := document(networkConfig(n))
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		n.Path("containerd.toml"):         containerd,
		n.Path("kubelet.json"):            kubelet,
		n.Path("kube-proxy.json"):         proxy,
		n.Path("cni", "10-pods.conflist"): network,
		n.Path("resolv.conf"):             []byte("# The local cluster has no name server.\n"),
		n.Path("registries", c.MachineRegistry(), "hosts.toml"): fmt.Appendf(nil,
			"# A registry of this machine, without TLS.\nserver = %q\n", "http://"+c.MachineRegistry()),
	}, nil
}

var containerdTemplate = template.Must(template.New("containerd.toml").Parse(`version = 3
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
# Network filtering hooks and tracing of the machine's containerd, if it has one, are not ours.
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.internal.v1.opt"]
  path = {{printf "%q" .Opt}}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{printf "%q" .Snapshotter}}
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = {{printf "%q" .Pause}}
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {{printf "%q" .Registries}}

[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = {{printf "%q" .Snapshotter}}

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE, as in many sandboxes, no process may be favoured over containerd itself.
  restrict_oom_score_adj = true
  # Pods' network namespaces below our own folder, where down finds them.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{{printf "%q" .CNIBin}}]
    conf_dir = {{printf "%q" .CNIConf}}
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = {{printf "%q" .Shim}}
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = {{printf "%q" .Runc}}
        SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`))

func containerdConfig(c layout.Cluster, n layout.Node, host Host) ([]byte, error) {
	var text bytes.Buffer
	err := containerdTemplate.Execute(&text, map[string]string{
		"Root":        n.Path("containerd"),
		"State":       n.Path("containerd-state"),
		"Socket":      n.ContainerdSocket(),
		"Opt":         n.Path("containerd-opt"),
		"Snapshotter": host.Snapshotter,
		"Pause":       layout.PauseImage,
		"CNIBin":      host.CNIDir,
		"CNIConf":     n.Path("cni"),
		"Registries":  n.Path("registries"),
		"Shim":        c.Bin + "/containerd-shim-runc-v2",
		"Runc":        host.Runc,
	})
	if err != nil {
		return nil, fmt.Errorf("rendering containerd's configuration: %w", err)
	}
	return text.Bytes(), nil
}

// networkConfig joins each pod to its node by a link of its own, without a bridge: every packet is then routed, so that
// service addresses are translated back on the way home on any kernel (across a bridge this needs br_netfilter).
func networkConfig(n layout.Node) any {
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       "pods",
		"plugins": []any{
			map[string]any{
				"type": "ptp",
				"ipam": map[string]any{
					"type":    "host-local",
					"ranges":  []any{[]any{map[string]any{"subnet": n.PodCIDR.String()}}},
					"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
					"dataDir": n.Path("cni-addresses"),
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}, "snat": true},
		},
	}
}

func proxyConfig(c layout.Cluster) any {
	return map[string]any{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "iptables",
		"clientConnection": map[string]any{"kubeconfig": KubeconfigFile(c, pki.Proxy)},
		"clusterCIDR":      layout.PodCIDR,
		// These limits belong to the whole machine; a namespace may not change them, and need not.
		"conntrack": map[string]any{
			"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
		},
		"oomScoreAdj": 0,
	}
}

func kubeletConfig(c layout.Cluster, n layout.Node) any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": certFile(c, pki.CA)},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"tlsCertFile":              certFile(c, n.Component(pki.KubeletServing)),
		"tlsPrivateKeyFile":        keyFile(c, n.Component(pki.KubeletServing)),
		"address":                  n.IP.String(),
		"healthzBindAddress":       "127.0.0.1",
		"containerRuntimeEndpoint": "unix://" + n.ContainerdSocket(),
		"podLogsDir":               n.Path("pod-logs"),
		"volumePluginDir":          c.Path("volume-plugins"),
		"resolvConf":               n.Path("resolv.conf"),
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{layout.DNSServiceIP},
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               n.CgroupRoot(),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"oomScoreAdj":              0,
		// The control plane, the runtime and whoever works on the machine need room beside the pods.
		"systemReserved": map[string]any{"memory": "1Gi"},
		// Developers' disks are often nearly full; a share of the disk as the limit would evict pods for no reason.
		"evictionHard": map[string]any{
			"memory.available": "200Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi", "nodefs.inodesFree": "1%",
		},
		// Images come from nowhere but load-image, so that one collected as garbage would be gone.
		"imageGCHighThresholdPercent": 100,
		// Status sooner than by default, and objects read as soon as they change: people and tests wait for them.
		"nodeStatusUpdateFrequency": "5s",
		"syncFrequency":             "10s",
		"serializeImagePulls":       false,
		"registerWithTaints":        []any{},
	}
	if c.Impatient {
		config["nodeLeaseDurationSeconds"] = leaseSeconds
	}
	return config
}
