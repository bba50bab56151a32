package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// configMap reads a ConfigMap. That of flannel holds net-conf.json; others are unknown.
func (f *flannel) configMap(raw []byte) error {
	var doc struct{ Data map[string]string }
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: ConfigMap: %w", ErrInvalid, err)
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
	texts := []string{annotations[prefix+"public-ip-overwrite"], annotations[prefix+"public-ip"],
		annotations[prefix+"public-ipv6"]}
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
	f.backend(annotations[prefix+"backend-type"])
	return f.add(n)
}
