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

// FromFlannel drafts a file from flannel's own state. Each input has one of these forms,
// which FromFlannel tells apart by the content:
//
//	net-conf.json                               {"Network": ..., "Backend": ...}
//	kubectl get configmap -o json               with net-conf.json in it
//	kubectl get nodes -o json                   pod subnets, and flannel's annotations
//	etcdctl get --prefix /coreos.com/network    alternating keys and values, or -w json
//	GET /v2/keys/coreos.com/network?recursive=true    etcd's version 2
//
// An input of any other form is an error that wraps ErrUnknown and names the file. The draft
// of valid input may still lack the network or the nodes; its notes say so.
func FromFlannel(files []File) (*Draft, error) {
	f := &flannel{draft: Draft{From: "flannel"}}
	for _, file := range files {
		if err := f.read(file.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return f.finish()
}

// flannel collects what the files say.
type flannel struct {
	draft Draft
	conf  *netConf // nil until an input has it
}

// netConf is flannel's network configuration (pkg/subnet, Config). encoding/json matches the
// names whatever their case.
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

// Errors of input; test with errors.Is.
var (
	// ErrUnknown says that an input has none of the known forms.
	ErrUnknown = errors.New("unknown input: expected flannel's net-conf.json, leases from etcd, " +
		"or the output of `kubectl get nodes -o json`")
	// ErrYAML says that an input is YAML, which kubectl prints on request.
	ErrYAML = errors.New("the input is YAML: use JSON: `kubectl get ... -o json`")
	// ErrInvalid says that the form of an input is known but a value in it is not valid.
	ErrInvalid = errors.New("invalid input")
)

// read reads one input, or a part of one, whatever its form. The struct is the union of all
// JSON forms: which fields are set tells the form.
func (f *flannel) read(content []byte) error {
	var doc struct {
		Kind string
		Data map[string]string
		Kvs  []struct{ Key, Value []byte }
		Node *etcd2Node
		netConf
		Items []json.RawMessage
	}
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) // PowerShell's `>` writes this mark
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("apiVersion:")) {
		return ErrYAML
	}
	// Not JSON as a whole: perhaps what etcdctl prints, which has JSON between its keys.
	if err := json.Unmarshal(content, &doc); err != nil {
		return f.etcd(content)
	}
	switch {
	case doc.Node != nil:
		return f.tree(*doc.Node)
	case doc.Kind == "ConfigMap":
		inner, ok := doc.Data["net-conf.json"]
		if !ok {
			return fmt.Errorf("%w: the ConfigMap has no net-conf.json", ErrInvalid)
		}
		return f.read([]byte(inner))
	case doc.Kind == "Node":
		return f.node(content)
	case doc.Items != nil:
		// A list of another resource is refused by node, item by item.
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
	return ErrUnknown
}

// etcd reads alternating keys and values, as etcdctl prints them. A key is a line that begins
// with a slash; its value ends before the next key.
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
		// JSON may span lines, and none of them begins with a slash.
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
		return ErrUnknown
	}
	return nil
}

// etcd2Node is a directory or a key in etcd's version 2.
type etcd2Node struct {
	Key, Value string
	Nodes      []etcd2Node
}

// tree reads a directory of etcd's version 2 with everything below it.
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

// pair reads one key of etcd; known is false if flannel has no key of that name.
func (f *flannel) pair(key string, value []byte) (known bool, err error) {
	_, name, isSubnet := strings.Cut(key, "/subnets/")
	switch {
	case strings.HasSuffix(key, "/config"):
		return true, f.read(value)
	case !isSubnet:
		return false, nil
	}
	// The name is 10.244.1.0-24 or, with an IPv6 subnet, 10.244.1.0-24&fd00:10:244:1::-64
	// (flannel pkg/subnet, MakeSubnetKey).
	var n Node
	for word := range strings.SplitSeq(name, "&") {
		p, err := netip.ParsePrefix(strings.ReplaceAll(word, "-", "/"))
		if err != nil {
			return true, fmt.Errorf("key %s: %w: %w", key, ErrInvalid, err)
		}
		n.Subnets = append(n.Subnets, p)
	}
	var l lease
	if err := json.Unmarshal(value, &l); err != nil {
		return true, fmt.Errorf("key %s: %w: %w", key, ErrInvalid, err)
	}
	// A lease has no name: notes call the host by its subnet.
	n.Address = f.address(n.Subnets[0].String(), l.PublicIP, l.PublicIPv6)
	f.backend(l.BackendType)
	f.draft.Nodes = append(f.draft.Nodes, n)
	return true, nil
}

// address returns the first text that is an address, in its canonical form; empty if none
// is. of names the host in notes.
func (f *flannel) address(of string, texts ...string) string {
	for _, text := range texts {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			f.draft.note("the address of %s: %q is not an IP address", of, text)
			continue
		}
		return a.String()
	}
	return ""
}

// node reads a Node of Kubernetes. flannel's annotations come before the node's own address:
// flannel has sent packets to what they say.
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
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if doc.Kind != "Node" {
		return ErrUnknown
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

// backend notes that hosts of another backend than udp cannot exchange packets with meshd.
func (f *flannel) backend(kind string) {
	switch kind {
	case "", "udp": // meshd uses the same wire format
	default:
		f.draft.note("the %s backend: meshd speaks the wire format of flannel's udp backend, "+
			"so all hosts have to change at once", kind)
	}
}

// finish completes the draft with notes about what the input lacks.
func (f *flannel) finish() (*Draft, error) {
	d := &f.draft
	if f.conf != nil {
		if err := f.network(); err != nil {
			return nil, err
		}
	} else {
		d.CIDR = nil
		d.note("the network of all pods: it is in net-conf.json; give that file, too")
	}
	// Incomplete nodes stay in the draft: a person knows what is missing.
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
		d.note("the hosts: they are in etcd (`etcdctl get --prefix /coreos.com/network`) " +
			"or in `kubectl get nodes -o json`; give one of them, too")
	} else {
		d.note("leases: subnets are fixed from now on; add a [[node]] table for each new host")
	}
	d.finish()
	return d, nil
}

// network carries over flannel's own configuration. A family that it turns off disappears
// from the nodes, too.
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
			return fmt.Errorf("net-conf.json: %w: network: %w", ErrInvalid, err)
		}
		d.CIDR = append(d.CIDR, p.Masked())
	}
	for i := range d.Nodes {
		d.Nodes[i].Subnets = slices.DeleteFunc(d.Nodes[i].Subnets, func(p netip.Prefix) bool {
			return !slices.ContainsFunc(d.CIDR, func(c netip.Prefix) bool { return c.Addr().Is4() == p.Addr().Is4() })
		})
	}
	const defaultPort = 8285 // of flannel's udp backend, and of meshd
	if c.Backend.Type == "udp" && c.Backend.Port != 0 && c.Backend.Port != defaultPort {
		d.Port = c.Backend.Port
	}
	// udp is flannel's own default.
	f.backend(cmp.Or(c.Backend.Type, "udp"))
	if c.SubnetLen != 0 || c.IPv6SubnetLen != 0 || c.SubnetMin != "" || c.SubnetMax != "" {
		d.note("SubnetLen, SubnetMin and SubnetMax: hosts do not lease subnets; each [[node]] table lists its own")
	}
	return nil
}
