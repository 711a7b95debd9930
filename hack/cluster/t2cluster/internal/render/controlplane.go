// Package render turns a cluster's description into the command lines and configuration files of its components. It is
// pure: the same cluster always gives the same text.
package render

import (
	"strconv"

	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/layout"
	"github.com/transformersquared/operator/hack/cluster/t2cluster/internal/pki"
)

// Component is a program to run: which executable, with which arguments.
type Component struct {
	// Name names its log and pid file.
	Name string
	// Executable is its file name in the cluster's folder of executables.
	Executable string
	Args       []string
}

const (
	etcdClient = "127.0.0.1:2379"
	etcdPeer   = "127.0.0.1:2380"
)

// How soon an impatient cluster gives up a node that does not report, and how soon after that its pods; Kubernetes takes 50
// seconds and 5 minutes. A node reports by a lease, which it renews four times in leaseSeconds.
const (
	impatientGrace   = "16s"
	impatientSeconds = "20"
	leaseSeconds     = 20
)

// PKIDir is where the cluster's certificates are.
func PKIDir(c layout.Cluster) string { return c.Path("pki") }

func certFile(c layout.Cluster, name string) string { return c.Path("pki", name+".crt") }

func keyFile(c layout.Cluster, name string) string { return c.Path("pki", name+".key") }

// KubeconfigFile is the kubeconfig of one of pki's clients.
func KubeconfigFile(c layout.Cluster, client string) string { return c.Path("kubeconfigs", client) }

// Etcd is the key-value store. It listens on the loopback of node 1's namespace only. It does not wait for the disk: a
// local cluster that lost power is made anew, and without the waiting the whole control plane is seconds faster.
func Etcd(c layout.Cluster) Component {
	return Component{Name: "etcd", Executable: "etcd", Args: []string{
		"--name=" + c.Name,
		"--data-dir=" + c.Path("etcd"),
		"--listen-client-urls=http://" + etcdClient,
		"--advertise-client-urls=http://" + etcdClient,
		"--listen-peer-urls=http://" + etcdPeer,
		"--initial-advertise-peer-urls=http://" + etcdPeer,
		"--initial-cluster=" + c.Name + "=http://" + etcdPeer,
		"--unsafe-no-fsync=true",
		"--log-level=warn",
	}}
}

// APIServer is the Kubernetes API, with the authorizers and admission plugins that a production cluster has. It hands
// aggregated APIs, such as that of custom metrics, on to whoever an APIService names: it asks them at their Service's
// address, proves itself by the front proxy's certificate, and says in headers whose request it is.
func APIServer(c layout.Cluster) Component {
	var impatient []string
	if c.Impatient {
		impatient = []string{"--default-not-ready-toleration-seconds=" + impatientSeconds, "--default-unreachable-toleration-seconds=" + impatientSeconds}
	}
	return Component{Name: "kube-apiserver", Executable: "kube-apiserver", Args: append([]string{
		"--etcd-servers=http://" + etcdClient,
		"--advertise-address=" + c.Node(1).IP.String(),
		"--bind-address=0.0.0.0",
		"--secure-port=" + strconv.Itoa(layout.APIPort),
		"--cert-dir=" + PKIDir(c),
		"--tls-cert-file=" + certFile(c, pki.APIServer),
		"--tls-private-key-file=" + keyFile(c, pki.APIServer),
		"--client-ca-file=" + certFile(c, pki.CA),
		"--kubelet-client-certificate=" + certFile(c, pki.KubeletClient),
		"--kubelet-client-key=" + keyFile(c, pki.KubeletClient),
		"--kubelet-certificate-authority=" + certFile(c, pki.CA),
		// Node names resolve nowhere here, so that the API server must reach kubelets by address.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range=" + layout.ServiceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + certFile(c, pki.ServiceAccounts),
		"--service-account-signing-key-file=" + keyFile(c, pki.ServiceAccounts),
		"--requestheader-client-ca-file=" + certFile(c, pki.FrontProxyCA),
		"--requestheader-allowed-names=" + pki.FrontProxyUser,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + certFile(c, pki.FrontProxyClient),
		"--proxy-client-key-file=" + keyFile(c, pki.FrontProxyClient),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
	}, impatient...)}
}

// ControllerManager runs the built-in controllers, the host path provisioner of volumes among them.
func ControllerManager(c layout.Cluster) Component {
	kubeconfig := KubeconfigFile(c, pki.ControllerManager)
	var impatient []string
	if c.Impatient {
		impatient = []string{"--node-monitor-grace-period=" + impatientGrace, "--node-monitor-period=1s"}
	}
	return Component{Name: "kube-controller-manager", Executable: "kube-controller-manager", Args: append([]string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--cert-dir=" + PKIDir(c),
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + keyFile(c, pki.ServiceAccounts),
		"--root-ca-file=" + certFile(c, pki.CA),
		"--cluster-signing-cert-file=" + certFile(c, pki.CA),
		"--cluster-signing-key-file=" + keyFile(c, pki.CA),
		"--enable-hostpath-provisioner=true",
		"--flex-volume-plugin-dir=" + c.Path("volume-plugins"),
	}, impatient...)}
}

// Scheduler places pods on nodes.
func Scheduler(c layout.Cluster) Component {
	kubeconfig := KubeconfigFile(c, pki.Scheduler)
	return Component{Name: "kube-scheduler", Executable: "kube-scheduler", Args: []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--cert-dir=" + PKIDir(c),
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	}}
}
