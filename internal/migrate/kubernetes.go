package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// cniConf is where the kubelet looks for a CNI configuration; docs/kubernetes.md uses the same name.
const cniConf = "/etc/cni/net.d/10-mesh.conflist"

// FromKubernetes drafts a file for the nodes of a cluster without a network plugin. Inputs are what
// `kubectl get nodes -o json` prints, or -o yaml, and perhaps the ConfigMap kubeadm-config of kube-system,
// which has the pod network. Without it the network is guessed from the nodes, and a note says so. Errors and
// incomplete drafts are those of FromFlannel.
func FromKubernetes(files []File) (*Draft, error) {
	f := &flannel{draft: Draft{From: "Kubernetes", CNIConf: cniConf}, kubernetes: true}
	if err := f.readAll(files); err != nil {
		return nil, err
	}
	d := &f.draft
	switch {
	case f.conf != nil:
	case len(d.Nodes) == 0:
		d.losses.mesh("the network of all pods: it is the ConfigMap kubeadm-config of kube-system, or in " +
			"--cluster-cidr of the controller manager")
	default:
		f.conf = guessNetwork(d.Nodes)
		d.losses.mesh("the network of all pods is a guess, from the nodes: compare it with --cluster-cidr of the " +
			"controller manager, or give the ConfigMap kubeadm-config, too")
	}
	return f.finish()
}

// guessNetwork returns the pod network that contains the subnets of all nodes. It has room for as many nodes
// as a cluster of kubeadm at least: /16, and /48 of IPv6, are what its guides propose.
func guessNetwork(nodes []Node) *netConf {
	contain := func(v4 bool, longest int) (all netip.Prefix) {
		for _, n := range nodes {
			for _, p := range n.Subnets {
				switch {
				case p.Addr().Is4() != v4:
				case !all.IsValid():
					all, _ = p.Addr().Prefix(min(p.Bits(), longest))
				default:
					for !all.Contains(p.Addr()) || all.Bits() > p.Bits() {
						all, _ = all.Addr().Prefix(all.Bits() - 1)
					}
				}
			}
		}
		return all
	}
	var conf netConf
	if p := contain(true, 16); p.IsValid() {
		conf.Network = p.String()
	}
	if p := contain(false, 48); p.IsValid() {
		conf.IPv6Network = p.String()
	}
	return &conf
}

// kubeadm reads the settings by which kubeadm has made the cluster, which are YAML.
func (f *flannel) kubeadm(text string) error {
	docs, err := yamlDocuments([]byte(text))
	if err != nil {
		return err
	}
	for _, raw := range docs {
		var doc struct{ Networking struct{ PodSubnet string } }
		if json.Unmarshal(raw, &doc) != nil || doc.Networking.PodSubnet == "" {
			continue
		}
		var conf netConf
		for word := range strings.SplitSeq(doc.Networking.PodSubnet, ",") { // one of each family
			p, err := netip.ParsePrefix(strings.TrimSpace(word))
			switch {
			case err != nil:
				return fmt.Errorf("kubeadm-config: %w: podSubnet: %w", ErrInvalid, err)
			case p.Addr().Is4():
				conf.Network = p.String()
			default:
				conf.IPv6Network = p.String()
			}
		}
		f.conf = &conf
		return nil
	}
	return fmt.Errorf("%w: kubeadm-config without podSubnet", ErrUnknown)
}

// configMap reads a ConfigMap. That of flannel holds net-conf.json; others are unknown.
func (f *flannel) configMap(raw []byte) error {
	var doc struct{ Data map[string]string }
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: ConfigMap: %w", ErrInvalid, err)
	}
	if text, ok := doc.Data["ClusterConfiguration"]; ok && f.kubernetes {
		return f.kubeadm(text)
	}
	inner, ok := doc.Data["net-conf.json"]
	if !ok {
		return fmt.Errorf("%w: a ConfigMap without net-conf.json", ErrUnknown)
	}
	if err := f.netConf([]byte(inner)); err != nil {
		return fmt.Errorf("ConfigMap: %w", err)
	}
	return nil
}

// node reads a Node of Kubernetes. flannel's annotations come before the node's own address:
// flannel has sent packets to what they say.
func (f *flannel) node(raw []byte) error {
	var doc struct {
		Metadata struct {
			Name        string
			Annotations map[string]string
		}
		Spec struct {
			PodCIDR  string
			PodCIDRs []string
		}
		Status struct {
			Addresses []struct{ Type, Address string }
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	n := Node{Name: doc.Metadata.Name}
	// podCIDRs, of both families, came with Kubernetes 1.16; podCIDR is its first element.
	if len(doc.Spec.PodCIDRs) == 0 && doc.Spec.PodCIDR != "" {
		doc.Spec.PodCIDRs = []string{doc.Spec.PodCIDR}
	}
	for _, cidr := range doc.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("node %s: %w: podCIDR: %w", n.Name, ErrInvalid, err)
		}
		n.Subnets = append(n.Subnets, p)
	}
	const prefix = "flannel.alpha.coreos.com/"
	annotations := doc.Metadata.Annotations
	var texts []string
	if !f.kubernetes { // an annotation may be left from a flannel that is gone
		texts = []string{annotations[prefix+"public-ip-overwrite"], annotations[prefix+"public-ip"],
			annotations[prefix+"public-ipv6"]}
		f.backend(annotations[prefix+"backend-type"])
	}
	var own []string
	for _, a := range doc.Status.Addresses {
		if a.Type == "InternalIP" {
			own = append(own, a.Address)
		}
	}
	n.Address = f.address(slices.Concat(texts, own)...)
	// A host finds its node by the address of an interface, and behind NAT it has no such address.
	if len(own) > 0 && n.Address != "" && !slices.Contains(own, n.Address) {
		f.draft.losses.of(len(f.draft.Nodes), "the address "+n.Address, fmt.Sprintf("flannel's annotation has it, "+
			"and it is not among the host's own (%s): choose one of them, or run meshd there with --node",
			clip(strings.Join(own, ", "))))
	}
	return f.add(n)
}
