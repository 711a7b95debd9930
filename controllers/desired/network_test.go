package desired

import (
	"bytes"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/transformersquared/operator/runtime/contract"
)

// peer is a pod, or without labels something with an address.
type peer struct {
	namespace string
	labels    map[string]string
	address   string
}

// network are the policies of config/network, as somebody applies them to the namespaces.
type network struct {
	t        *testing.T
	policies []networkingv1.NetworkPolicy
}

func (n *network) apply(namespace, file string) {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "network", file))
	if err != nil {
		n.t.Fatal(err)
	}
	var p networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		n.t.Fatal(err)
	}
	p.Namespace = namespace
	n.policies = append(n.policies, p)
}

func (n *network) selects(s *metav1.LabelSelector, labels map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		n.t.Fatal(err)
	}
	return selector.Matches(apilabels.Set(labels))
}

// matches is Kubernetes' rule of who a peer of a policy in a namespace is.
func (n *network) matches(namespace string, of networkingv1.NetworkPolicyPeer, p peer) bool {
	if of.IPBlock != nil {
		address := netip.MustParseAddr(p.address)
		in := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(address) }
		return in(of.IPBlock.CIDR) && !slices.ContainsFunc(of.IPBlock.Except, in)
	}
	if p.labels == nil {
		return false
	}
	if of.NamespaceSelector == nil {
		return p.namespace == namespace && n.selects(of.PodSelector, p.labels)
	}
	return n.selects(of.NamespaceSelector, map[string]string{corev1.LabelMetadataName: p.namespace}) &&
		(of.PodSelector == nil || n.selects(of.PodSelector, p.labels))
}

// side reports whether the policies that isolate one pod in a direction let it talk to
// another; without such a policy everything may.
func (n *network) side(of, other peer, direction networkingv1.PolicyType, protocol corev1.Protocol, port int32) bool {
	isolated := false
	for _, p := range n.policies {
		if of.labels == nil || p.Namespace != of.namespace || !n.selects(&p.Spec.PodSelector, of.labels) || !slices.Contains(p.Spec.PolicyTypes, direction) {
			continue
		}
		isolated = true
		type rule struct {
			peers []networkingv1.NetworkPolicyPeer
			ports []networkingv1.NetworkPolicyPort
		}
		var rules []rule
		for _, r := range p.Spec.Ingress {
			if direction == networkingv1.PolicyTypeIngress {
				rules = append(rules, rule{r.From, r.Ports})
			}
		}
		for _, r := range p.Spec.Egress {
			if direction == networkingv1.PolicyTypeEgress {
				rules = append(rules, rule{r.To, r.Ports})
			}
		}
		for _, r := range rules {
			who := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(of networkingv1.NetworkPolicyPeer) bool { return n.matches(p.Namespace, of, other) })
			what := len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
				return *p.Protocol == protocol && p.Port.IntVal == port
			})
			if who && what {
				return true
			}
		}
	}
	return !isolated
}

// What pods need of the network they have, and nothing else, where config/network is
// applied: pods as the operator makes them, by Kubernetes' rules of who may talk to whom.
func TestTheNetworkAllowsWhatPodsNeedAndNoMore(t *testing.T) {
	n := &network{t: t}
	n.apply("demo", "namespace/serving.yaml")
	n.apply("demo", "namespace/jobs.yaml")
	n.apply("t2-system", "operator/operator.yaml")

	deployment, err := Deployment(policy(), baseModel(), nil, []byte("token"), settings)
	if err != nil {
		t.Fatal(err)
	}
	serving := peer{"demo", deployment.Spec.Template.Labels, "10.1.0.1"}
	jobs := map[string]peer{}
	for name, run := range map[string]func() (Run, error){
		"a decomposition": func() (Run, error) { return Decompose(baseModel(), settings) },
		"a training":      func() (Run, error) { return Expert(expertVector(), baseModel(), nil, settings) },
		"the fit of a probe": func() (Run, error) {
			return Probe(probing(), baseModel(), PromptSets(probing(), skilled()), nil, map[string]string{"skill-0": digest("9")}, settings)
		},
	} {
		made, err := run()
		if err != nil {
			t.Fatal(err)
		}
		jobs[name] = peer{"demo", made.Job.Spec.Template.Labels, "10.1.0.2"}
	}
	manager := peer{"t2-system", managerLabels(t), "10.1.0.3"}
	client := peer{"demo", map[string]string{"app": "client"}, "10.1.0.4"}
	stranger := peer{"other", maps.Clone(manager.labels), "10.1.0.5"} // Its labels alone make nobody the operator.
	neighbour := peer{"t2-system", map[string]string{"app": "x"}, "10.1.0.6"}
	prometheus := peer{"monitoring", map[string]string{"app": "prometheus"}, "10.1.0.7"}
	outside, metadata, apiServer := peer{address: "203.0.113.7"}, peer{address: "169.254.169.254"}, peer{address: "10.96.0.1"}

	check := func(name string, from, to peer, protocol corev1.Protocol, port int32, want bool) {
		t.Helper()
		got := n.side(from, to, networkingv1.PolicyTypeEgress, protocol, port) && n.side(to, from, networkingv1.PolicyTypeIngress, protocol, port)
		if got != want {
			t.Errorf("%s at port %d: allowed is %v, want %v", name, port, got, want)
		}
	}
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	check("a client asks a policy", client, serving, tcp, contract.PortAPI, true)
	check("a client asks for the expert set", client, serving, tcp, contract.PortAdmin, false)
	check("another namespace asks a policy", stranger, serving, tcp, contract.PortAPI, false)
	check("Prometheus asks a policy", prometheus, serving, tcp, contract.PortAPI, true)
	check("Prometheus asks for the expert set", prometheus, serving, tcp, contract.PortAdmin, false)
	check("the operator offers a set", manager, serving, tcp, contract.PortAdmin, true)
	check("one with the operator's labels offers a set", stranger, serving, tcp, contract.PortAdmin, false)
	check("a neighbour of the operator's offers a set", neighbour, serving, tcp, contract.PortAdmin, false)
	check("the operator asks a policy", manager, serving, tcp, contract.PortAPI, false)
	for _, port := range []int32{53, 80, 443} {
		check("a policy's pod asks the world", serving, outside, tcp, port, false)
	}
	check("a policy's pod asks another", serving, serving, tcp, contract.PortAPI, false)
	for name, job := range jobs {
		check("the operator asks "+name, manager, job, tcp, contract.PortAdmin, true)
		check("Prometheus asks "+name, prometheus, job, tcp, contract.PortAdmin, true)
		check("a client asks "+name, client, job, tcp, contract.PortAdmin, false)
		check(name+" asks for names", job, apiServer, udp, 53, true)
		check(name+" asks a hub", job, outside, tcp, 443, true)
		check(name+" asks by another port", job, outside, tcp, 22, false)
		check(name+" asks a cloud for credentials", job, metadata, tcp, 80, false)
		check(name+" asks a policy for its expert set", job, serving, tcp, contract.PortAdmin, false)
	}
	check("the operator asks the API server", manager, apiServer, tcp, 443, true)
	check("Prometheus asks the operator", prometheus, manager, tcp, 8443, true)
	check("somebody asks the operator", client, manager, tcp, 8443, false)
}

// managerLabels are those of the operator's pods.
func managerLabels(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "manager", "manager.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range splitDocuments(text) {
		var d struct {
			Kind string `json:"kind"`
			Spec struct {
				Template metav1.PartialObjectMetadata `json:"template"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal(document, &d); err != nil {
			t.Fatal(err)
		}
		if d.Kind == "Deployment" {
			return d.Spec.Template.Labels
		}
	}
	t.Fatal("there is no Deployment of the operator")
	return nil
}

// splitDocuments splits a file of YAML into its documents.
func splitDocuments(text []byte) [][]byte {
	var documents [][]byte
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		documents = append(documents, document)
	}
	return documents
}
