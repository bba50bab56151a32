package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// FromFlannel drafts a file from flannel's own state. Each input has one of these forms,
// which FromFlannel tells apart by the content:
//
//	net-conf.json                               {"Network": ..., "Backend": ...}
//	kube-flannel.yml                            net-conf.json is in a ConfigMap of it
//	kubectl get nodes,configmaps -o json        pod subnets, and flannel's annotations; or -o yaml
//	etcdctl get --prefix /coreos.com/network    alternating keys and values, or -w json
//	GET /v2/keys/coreos.com/network?recursive=true    etcd's version 2
//
// JSON and YAML may hold several documents, and lists of mixed resources; resources that say nothing
// about the network are passed over. An input in which nothing is known is an error that wraps
// ErrUnknown and names the file. The draft of valid input may still lack the network or the nodes;
// its notes say so.
func FromFlannel(files []File) (*Draft, error) {
	f := &flannel{draft: Draft{From: "flannel"}}
	if err := f.readAll(files); err != nil {
		return nil, err
	}
	return f.finish()
}

// readAll reads inputs of any form.
func (f *flannel) readAll(files []File) error {
	for _, file := range files {
		content, err := file.text()
		if err == nil {
			err = f.read(content)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return nil
}

// flannel collects what the files say.
type flannel struct {
	draft Draft
	conf  *netConf // nil until an input has it
	// kubernetes says that nodes and kubeadm's settings count, and nothing of flannel.
	kubernetes bool
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

// read reads one input, whatever its form.
func (f *flannel) read(content []byte) error {
	docs, err := jsonDocuments(content)
	switch {
	case err == nil:
	case errors.Is(err, ErrTooLarge):
		return err
	// Not JSON as a whole: perhaps what etcdctl prints, which has JSON between its keys.
	case bytes.HasPrefix(content, []byte("/")) || bytes.Contains(content, []byte("\n/")):
		return f.etcd(content)
	default:
		if docs, err = yamlDocuments(content); err != nil {
			return err
		}
	}
	known := false
	for _, doc := range docs {
		switch err := f.object(doc, "", 0); {
		case errors.Is(err, ErrUnknown): // another document may say more
		case err != nil:
			return err
		default:
			known = true
		}
	}
	if !known {
		return ErrUnknown
	}
	return nil
}

// jsonDocuments returns the documents of an input that is JSON from its beginning to its end.
func jsonDocuments(content []byte) (docs []json.RawMessage, err error) {
	for d := json.NewDecoder(bytes.NewReader(content)); ; {
		var doc json.RawMessage
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		if docs = append(docs, doc); len(docs) > maxDocs {
			return nil, errDocs
		}
	}
}

// errDocs is the error of more documents than maxDocs.
var errDocs = fmt.Errorf("%w: more than %d documents", ErrTooLarge, maxDocs)

// object reads one document or one element of a list, whose kind is that of the list if it has none
// of its own. The error of one that says nothing wraps ErrUnknown. deep is how many lists are around
// it.
func (f *flannel) object(raw json.RawMessage, kind string, deep int) error {
	var doc struct {
		Kind  string
		Items []json.RawMessage
		Kvs   []struct{ Key, Value []byte }
		Node  json.RawMessage
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	switch kind := cmp.Or(doc.Kind, kind); {
	case kind == "Node":
		return f.node(raw)
	case kind == "ConfigMap":
		return f.configMap(raw)
	case doc.Items != nil:
		return f.list(doc.Items, strings.TrimSuffix(kind, "List"), deep)
	case kind != "":
		return fmt.Errorf("%w: a resource of kind %s", ErrUnknown, kind)
	case doc.Kvs != nil:
		for _, kv := range doc.Kvs {
			if _, err := f.pair(string(kv.Key), kv.Value); err != nil {
				return err
			}
		}
		return nil
	case doc.Node != nil:
		var root etcd2Node
		if err := json.Unmarshal(doc.Node, &root); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return f.tree(root)
	}
	return f.netConf(raw)
}

// list reads the elements of a list; one that says something is enough.
func (f *flannel) list(items []json.RawMessage, kind string, deep int) error {
	const deepest = 2 // `kubectl get` makes a list of lists where it merges answers
	if deep > deepest {
		return fmt.Errorf("%w: lists inside of lists", ErrInvalid)
	}
	last := ErrUnknown
	for _, item := range items {
		switch err := f.object(item, kind, deep+1); {
		case err == nil:
			last = nil
		case !errors.Is(err, ErrUnknown):
			return err
		}
	}
	return last
}

// netConf reads flannel's own configuration.
func (f *flannel) netConf(raw []byte) error {
	var conf netConf
	if err := json.Unmarshal(raw, &conf); err != nil {
		return fmt.Errorf("net-conf.json: %w: %w", ErrInvalid, err)
	}
	if conf.Network == "" && conf.IPv6Network == "" {
		return fmt.Errorf("%w: net-conf.json without Network", ErrUnknown)
	}
	if f.conf != nil && (f.conf.Network != conf.Network || f.conf.IPv6Network != conf.IPv6Network) {
		f.draft.losses.mesh("the network %s: another input says %s, which the draft uses",
			cmp.Or(f.conf.Network, f.conf.IPv6Network), cmp.Or(conf.Network, conf.IPv6Network))
	}
	f.conf = &conf
	return nil
}

// etcd reads alternating keys and values, as etcdctl prints them. A key is a line that begins
// with a slash; its value ends before the next key.
func (f *flannel) etcd(content []byte) error {
	key, found := "", false
	var value bytes.Buffer
	flush := func() error {
		if key == "" {
			return nil
		}
		known, err := f.pair(key, value.Bytes())
		found = found || known
		return err
	}
	for line := range bytes.Lines(content) {
		// JSON may span lines, and none of them begins with a slash.
		if line[0] != '/' {
			value.Write(line)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		key = string(bytes.TrimSpace(line))
		value.Reset()
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
		if err := f.netConf(value); err != nil {
			return true, fmt.Errorf("key %s: %w", key, err)
		}
		return true, nil
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
	n.Address = f.address(l.PublicIP, l.PublicIPv6)
	f.backend(l.BackendType)
	return true, f.add(n)
}

// add adds a node to the draft.
func (f *flannel) add(n Node) error {
	if f.draft.Nodes = append(f.draft.Nodes, n); len(f.draft.Nodes) > maxNodes {
		return fmt.Errorf("%w: more than %d hosts", ErrTooLarge, maxNodes)
	}
	return nil
}

// address returns the first text that is an address, in its canonical form; empty if none
// is. It belongs to the node that is added next.
func (f *flannel) address(texts ...string) string {
	for _, text := range texts {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			f.draft.losses.of(len(f.draft.Nodes), "the address", fmt.Sprintf("%q is not an IP address", text))
			continue
		}
		return a.String()
	}
	return ""
}

// backend notes that hosts of another backend than udp cannot exchange packets with meshd.
func (f *flannel) backend(kind string) {
	switch kind {
	case "", "udp": // meshd uses the same wire format
	default:
		f.draft.losses.mesh("the %s backend: meshd speaks the wire format of flannel's udp backend, "+
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
	} else if !f.kubernetes {
		d.losses.mesh("the network of all pods: it is in net-conf.json or in kube-flannel.yml: give that, too")
	}
	// Incomplete nodes stay in the draft: a person knows what is missing.
	for id, n := range d.Nodes {
		if n.Address == "" {
			d.losses.of(id, "the address", "the input has none")
		}
		if len(n.Subnets) == 0 {
			d.losses.of(id, "the pod subnet", "the input has none")
		}
	}
	switch {
	case f.kubernetes && len(d.Nodes) == 0:
		d.losses.mesh("the hosts: give what `kubectl get nodes -o json` prints, too")
	case f.kubernetes:
		d.losses.mesh("new nodes: add a [[node]] table for each, with its podCIDR")
	case len(d.Nodes) == 0:
		d.losses.mesh("the hosts: they are in etcd (`etcdctl get --prefix /coreos.com/network`) " +
			"or in `kubectl get nodes -o json`; give one of them, too")
	default:
		d.losses.mesh("leases: subnets are fixed from now on; add a [[node]] table for each new host")
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
		d.losses.mesh("SubnetLen, SubnetMin and SubnetMax: hosts do not lease subnets; each [[node]] table " +
			"lists its own")
	}
	return nil
}
