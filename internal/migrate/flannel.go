package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// FromFlannel drafts a file from flannel's own state, told apart by its content:
//
//	net-conf.json                          {"Network": ..., "Backend": ...}
//	kubectl get configmap -o json          with net-conf.json in it
//	kubectl get nodes -o json              pod subnets, and flannel's annotations
//	etcdctl get --prefix /coreos.com/network    keys and values by turns, or -w json
//	etcd's version 2: GET /v2/keys/coreos.com/network?recursive=true
//
// Input that is none of these is an error that names it.
func FromFlannel(files []File) (*Draft, error) {
	f := &flannel{draft: Draft{From: "flannel"}}
	for _, file := range files {
		if err := f.read(file.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return f.finish()
}

// flannel gathers what the files say.
type flannel struct {
	draft Draft
	conf  *netConf
}

// netConf is flannel's network configuration (pkg/subnet, Config).
type netConf struct {
	Network, IPv6Network     string
	EnableIPv4, EnableIPv6   *bool
	SubnetLen, IPv6SubnetLen uint
	SubnetMin, SubnetMax     string
	Backend                  struct {
		Type string
		Port int
	}
}

// lease is the value of a subnet in etcd (pkg/lease, LeaseAttrs).
type lease struct {
	PublicIP, PublicIPv6 string
	BackendType          string
}

var errUnknown = errors.New("this is neither net-conf.json, nor a list of leases from etcd, nor nodes of `kubectl get nodes -o json`")

func (f *flannel) read(content []byte) error {
	var doc struct {
		Kind string
		Data map[string]string
		Kvs  []struct{ Key, Value []byte }
		Node *etcd2Node
		netConf
		Items []json.RawMessage
	}
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) // of Windows
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("apiVersion:")) {
		return errors.New("this is YAML: give JSON, `kubectl get ... -o json`")
	}
	if err := json.Unmarshal(content, &doc); err != nil {
		return f.etcd(content)
	}
	switch {
	case doc.Node != nil:
		return f.tree(*doc.Node)
	case doc.Kind == "ConfigMap":
		inner, ok := doc.Data["net-conf.json"]
		if !ok {
			return errors.New("the ConfigMap has no net-conf.json")
		}
		return f.read([]byte(inner))
	case doc.Kind == "Node":
		return f.node(content)
	case doc.Items != nil:
		for _, item := range doc.Items {
			if err := f.node(item); err != nil {
				return err
			}
		}
		return nil
	case doc.Kvs != nil:
		for _, kv := range doc.Kvs {
			if _, err := f.pair(string(kv.Key), kv.Value); err != nil {
				return err
			}
		}
		return nil
	case doc.Network != "" || doc.IPv6Network != "":
		f.conf = &doc.netConf
		return nil
	}
	return errUnknown
}

// etcd reads keys and values by turns, as etcdctl prints them: a key begins with a slash,
// and its value ends where the next one begins.
func (f *flannel) etcd(content []byte) error {
	key, value, found := "", "", false
	flush := func() error {
		if key == "" {
			return nil
		}
		known, err := f.pair(key, []byte(value))
		found = found || known
		return err
	}
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "/") {
			value += line
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		key, value = strings.TrimSpace(line), ""
	}
	if err := flush(); err != nil {
		return err
	}
	if !found {
		return errUnknown
	}
	return nil
}

// etcd2Node is a folder or a key of etcd's version 2.
type etcd2Node struct {
	Key, Value string
	Nodes      []etcd2Node
}

func (f *flannel) tree(n etcd2Node) error {
	if n.Value != "" {
		if _, err := f.pair(n.Key, []byte(n.Value)); err != nil {
			return err
		}
	}
	for _, child := range n.Nodes {
		if err := f.tree(child); err != nil {
			return err
		}
	}
	return nil
}

// pair reads one key of etcd, if flannel has one of that name.
func (f *flannel) pair(key string, value []byte) (known bool, err error) {
	_, name, isSubnet := strings.Cut(key, "/subnets/")
	switch {
	case strings.HasSuffix(key, "/config"):
		return true, f.read(value)
	case !isSubnet:
		return false, nil
	}
	// 10.244.1.0-24, or with an IPv6 one behind it: 10.244.1.0-24&fd00:10:244:1::-64
	var n Node
	for word := range strings.SplitSeq(name, "&") {
		p, err := netip.ParsePrefix(strings.ReplaceAll(word, "-", "/"))
		if err != nil {
			return true, fmt.Errorf("key %s: %w", key, err)
		}
		n.Subnets = append(n.Subnets, p)
	}
	var l lease
	if err := json.Unmarshal(value, &l); err != nil {
		return true, fmt.Errorf("key %s: %w", key, err)
	}
	n.Address = f.address(n.Subnets[0].String(), l.PublicIP, l.PublicIPv6)
	f.backend(l.BackendType)
	f.draft.Nodes = append(f.draft.Nodes, n)
	return true, nil
}

// address returns the first of some that is one. flannel's may be a public one that the
// host itself does not have.
func (f *flannel) address(of string, texts ...string) string {
	for _, text := range texts {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			f.draft.note("the address of %s: %q is none", of, text)
			continue
		}
		return a.String()
	}
	return ""
}

// node reads a node of Kubernetes.
func (f *flannel) node(content []byte) error {
	var doc struct {
		Kind     string
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
	if err := json.Unmarshal(content, &doc); err != nil {
		return err
	}
	if doc.Kind != "Node" {
		return errUnknown
	}
	n := Node{Name: doc.Metadata.Name}
	if len(doc.Spec.PodCIDRs) == 0 && doc.Spec.PodCIDR != "" {
		doc.Spec.PodCIDRs = []string{doc.Spec.PodCIDR}
	}
	for _, cidr := range doc.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("node %s: podCIDR: %w", n.Name, err)
		}
		n.Subnets = append(n.Subnets, p)
	}
	const prefix = "flannel.alpha.coreos.com/"
	annotations := doc.Metadata.Annotations
	texts := []string{annotations[prefix+"public-ip-overwrite"], annotations[prefix+"public-ip"], annotations[prefix+"public-ipv6"]}
	for _, a := range doc.Status.Addresses {
		if a.Type == "InternalIP" {
			texts = append(texts, a.Address)
		}
	}
	n.Address = f.address(n.Name, texts...)
	f.backend(annotations[prefix+"backend-type"])
	f.draft.Nodes = append(f.draft.Nodes, n)
	return nil
}

// backend tells what becomes of the way packets travelled so far.
func (f *flannel) backend(kind string) {
	switch kind {
	case "", "udp": // the same wire
	default:
		f.draft.note("the %s backend: meshd speaks the wire format of flannel's udp backend, so all hosts have to change at once", kind)
	}
}

func (f *flannel) finish() (*Draft, error) {
	d := &f.draft
	if f.conf != nil {
		if err := f.network(); err != nil {
			return nil, err
		}
	} else {
		d.CIDR = nil
		d.note("the network of all pods: it stands in net-conf.json; give that file, too")
	}
	for _, n := range d.Nodes {
		name := cmp.Or(n.Name, n.Address, "a lease")
		if n.Address == "" {
			d.note("%s has no address in the input", name)
		}
		if len(n.Subnets) == 0 {
			d.note("%s has no pod subnet in the input", name)
		}
	}
	if len(d.Nodes) == 0 {
		d.note("the hosts: they stand in etcd (`etcdctl get --prefix /coreos.com/network`) or in `kubectl get nodes -o json`; give one of them, too")
	} else {
		d.note("leases: subnets do not change hands any more; a new host gets its [[node]] table by hand")
	}
	d.finish()
	return d, nil
}

// network carries over flannel's own configuration.
func (f *flannel) network() error {
	d, c := &f.draft, f.conf
	off := func(enabled *bool) bool { return enabled != nil && !*enabled }
	for _, family := range []struct {
		text string
		off  bool
	}{{c.Network, off(c.EnableIPv4)}, {c.IPv6Network, off(c.EnableIPv6)}} {
		if family.text == "" || family.off {
			continue
		}
		p, err := netip.ParsePrefix(family.text)
		if err != nil {
			return fmt.Errorf("net-conf.json: network: %w", err)
		}
		d.CIDR = append(d.CIDR, p.Masked())
	}
	for i := range d.Nodes { // a family that flannel does not carry
		d.Nodes[i].Subnets = slices.DeleteFunc(d.Nodes[i].Subnets, func(p netip.Prefix) bool {
			return !slices.ContainsFunc(d.CIDR, func(c netip.Prefix) bool { return c.Addr().Is4() == p.Addr().Is4() })
		})
	}
	const defaultPort = 8285
	if c.Backend.Type == "udp" && c.Backend.Port != 0 && c.Backend.Port != defaultPort {
		d.Port = c.Backend.Port
	}
	f.backend(cmp.Or(c.Backend.Type, "udp"))
	if c.SubnetLen != 0 || c.IPv6SubnetLen != 0 || c.SubnetMin != "" || c.SubnetMax != "" {
		d.note("SubnetLen, SubnetMin and SubnetMax: hosts do not lease subnets, each has those of its [[node]] table")
	}
	return nil
}
