package migrate

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func prefixesOf(words ...string) (ps []netip.Prefix) {
	for _, word := range words {
		ps = append(ps, netip.MustParsePrefix(word))
	}
	return ps
}

// flannelDraft returns the draft of inputs that are valid.
func flannelDraft(t *testing.T, contents ...string) *Draft {
	t.Helper()
	var files []File
	for _, content := range contents {
		files = append(files, File{"input", []byte(content)})
	}
	d, err := FromFlannel(files)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What flannel's own configuration means for the network and the port.
func TestNetConf(t *testing.T) {
	for name, test := range map[string]struct {
		conf string
		cidr []netip.Prefix
		port int
	}{
		"IPv4":      {`{"Network":"10.244.0.0/16"}`, prefixesOf("10.244.0.0/16"), 0},
		"host bits": {`{"Network":"10.244.7.1/16"}`, prefixesOf("10.244.0.0/16"), 0},
		"both families": {`{"Network":"10.244.0.0/16","IPv6Network":"fd00::/48","EnableIPv6":true}`,
			prefixesOf("10.244.0.0/16", "fd00::/48"), 0},
		"IPv4 is off": {`{"Network":"10.244.0.0/16","EnableIPv4":false,"IPv6Network":"fd00::/48"}`,
			prefixesOf("fd00::/48"), 0},
		"the default port": {`{"Network":"10.0.0.0/8","Backend":{"Type":"udp","Port":8285}}`,
			prefixesOf("10.0.0.0/8"), 0},
		"another port": {`{"Network":"10.0.0.0/8","Backend":{"Type":"udp","Port":9000}}`,
			prefixesOf("10.0.0.0/8"), 9000},
		"the port of another backend": {`{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","Port":8472}}`,
			prefixesOf("10.0.0.0/8"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := flannelDraft(t, test.conf)
			if !slices.Equal(d.CIDR, test.cidr) || d.Port != test.port {
				t.Errorf("cidr %v, port %d, want %v, %d", d.CIDR, d.Port, test.cidr, test.port)
			}
		})
	}
}

// Each form of input gives the same host.
func TestFormsOfALease(t *testing.T) {
	const value = `{"PublicIP":"172.18.0.4","BackendType":"udp"}`
	const key = "/coreos.com/network/subnets/10.244.1.0-24"
	want := []Node{{Name: "node-172.18.0.4", Address: "172.18.0.4", Subnets: prefixesOf("10.244.1.0/24")}}
	for name, content := range map[string]string{
		"lines of etcdctl":         key + "\n" + value + "\n",
		"a value of several lines": key + "\n{\"PublicIP\":\n\"172.18.0.4\"}\n",
		"among keys of others":     "/registry/a\n{}\n" + key + "\n" + value + "\n/registry/b\n{}\n",
		"etcd's version 2": `{"node":{"nodes":[{"key":"` + key + `",
			"value":"{\"PublicIP\":\"172.18.0.4\"}"}]}}`,
		"JSON of etcdctl (base 64)": `{"kvs":[{
			"key":"L2NvcmVvcy5jb20vbmV0d29yay9zdWJuZXRzLzEwLjI0NC4xLjAtMjQ=",
			"value":"eyJQdWJsaWNJUCI6IjE3Mi4xOC4wLjQifQ=="}]}`,
		"a node of Kubernetes": `{"kind":"Node","spec":{"podCIDR":"10.244.1.0/24"},
			"status":{"addresses":[{"type":"InternalIP","address":"172.18.0.4"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := flannelDraft(t, `{"Network":"10.244.0.0/16"}`, content)
			if !reflect.DeepEqual(d.Nodes, want) {
				t.Errorf("got %+v\nwant %+v", d.Nodes, want)
			}
		})
	}
}

// A lease of both families is one host; a family that flannel turned off is not carried over.
func TestDualStackLease(t *testing.T) {
	const lease = "/coreos.com/network/subnets/10.244.1.0-24&fd00:0:0:1::-64\n" +
		`{"PublicIP":"172.18.0.4","PublicIPv6":"2001:db8::4"}`
	for name, test := range map[string]struct {
		conf string
		want []netip.Prefix
	}{
		"both": {`{"Network":"10.244.0.0/16","IPv6Network":"fd00::/48"}`,
			prefixesOf("10.244.1.0/24", "fd00:0:0:1::/64")},
		"IPv4": {`{"Network":"10.244.0.0/16"}`, prefixesOf("10.244.1.0/24")},
		"IPv6": {`{"IPv6Network":"fd00::/48"}`, prefixesOf("fd00:0:0:1::/64")},
	} {
		t.Run(name, func(t *testing.T) {
			d := flannelDraft(t, test.conf, lease)
			if len(d.Nodes) != 1 || !slices.Equal(d.Nodes[0].Subnets, test.want) {
				t.Fatalf("%+v, want %v", d.Nodes, test.want)
			}
			if d.Nodes[0].Address != "172.18.0.4" {
				t.Errorf("address %q", d.Nodes[0].Address)
			}
		})
	}
}

// Where flannel sent packets to comes before the node's own address, and what is not an
// address is passed over.
func TestAddressOfANode(t *testing.T) {
	for name, test := range map[string]struct{ annotations, want string }{
		"none":         {"", "172.18.0.4"},
		"flannel's":    {`"flannel.alpha.coreos.com/public-ip":"192.0.2.4"`, "192.0.2.4"},
		"IPv6 of it":   {`"flannel.alpha.coreos.com/public-ipv6":"2001:DB8::4"`, "2001:db8::4"},
		"no address":   {`"flannel.alpha.coreos.com/public-ip":"x"`, "172.18.0.4"},
		"an empty one": {`"flannel.alpha.coreos.com/public-ip":""`, "172.18.0.4"},
		"the operator's": {`"flannel.alpha.coreos.com/public-ip":"192.0.2.4",
			"flannel.alpha.coreos.com/public-ip-overwrite":"192.0.2.5"`, "192.0.2.5"},
	} {
		t.Run(name, func(t *testing.T) {
			d := flannelDraft(t, `{"kind":"Node","metadata":{"annotations":{`+test.annotations+`}},
				"status":{"addresses":[{"type":"ExternalIP","address":"203.0.113.9"},
				{"type":"InternalIP","address":"172.18.0.4"}]}}`)
			if len(d.Nodes) != 1 || d.Nodes[0].Address != test.want {
				t.Errorf("%+v, want %s", d.Nodes, test.want)
			}
		})
	}
}

// Notes say once what is lost, and what the input lacks.
func TestFlannelNotes(t *testing.T) {
	const network = `{"Network":"10.244.0.0/16"}`
	const plain = `{"kind":"Node","spec":{"podCIDR":"10.244.1.0/24"},
		"status":{"addresses":[{"type":"InternalIP","address":"172.18.0.4"}]}}`
	const node = `{"kind":"Node","metadata":{"name":"a",
		"annotations":{"flannel.alpha.coreos.com/backend-type":"vxlan"}},
		"spec":{"podCIDR":"10.244.1.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"172.18.0.4"}]}}`
	for name, test := range map[string]struct {
		inputs []string
		notes  int
	}{
		"all is there":             {[]string{network, plain}, 1},
		"another backend":          {[]string{`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`, node}, 2},
		"leases of one length":     {[]string{`{"Network":"10.244.0.0/16","SubnetLen":24}`, node}, 3},
		"no network":               {[]string{node}, 3},
		"no hosts":                 {[]string{`{"Network":"10.244.0.0/16"}`}, 1},
		"neither address nor pods": {[]string{network, `{"kind":"Node","metadata":{"name":"a"}}`}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if d := flannelDraft(t, test.inputs...); len(d.Notes) != test.notes {
				t.Errorf("%d notes, want %d: %q", len(d.Notes), test.notes, d.Notes)
			}
		})
	}
}
