// Package container tells the container runtimes of a host which addresses its pods get.
// It writes two files: subnet.env, which flannel's CNI plugin and scripts around Docker
// read, and a CNI configuration list that needs only the standard plugins.
//
// The package is a room of its own because it owns files, and ownership has rules. A file
// is written whole or not at all. It is restored when another program changes or removes
// it. It is removed only if its content is still what meshd wrote.
//
//	note    a file beside the control socket: which paths meshd wrote, with their hashes
//	ours    a file that the note lists, or whose first bytes are as meshd writes them
package container

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Settings is what the runtimes of a host need to know, and where to write it.
type Settings struct {
	SubnetEnv string // absolute path of subnet.env; empty: do not write it
	CNIConf   string // absolute path of the CNI configuration; empty: do not write it

	Networks   []netip.Prefix // the pod network: at most one prefix of each family
	Subnets    []netip.Prefix // the pod subnets of this host
	MTU        int            // of pods, in bytes
	Masquerade bool           // meshd masquerades the pods' packets: runtimes must not do it again
}

// smallest is the number of host bits that a subnet needs to have room for pods: the
// network address, the bridge's address, and one pod or more.
const smallest = 2

// pods returns the first subnet of one family that has room for pods. One is enough: the
// bridge plugin can be the gateway of one IPv4 subnet only, and subnet.env names one.
func (s Settings) pods(v6 bool) netip.Prefix {
	for _, p := range s.Subnets {
		if p.Addr().Is6() == v6 && p.Addr().BitLen()-p.Bits() >= smallest {
			return p
		}
	}
	return netip.Prefix{}
}

// Usable reports whether a subnet has room for pods. Otherwise Set writes no file.
func (s Settings) Usable() bool { return s.pods(false).IsValid() || s.pods(true).IsValid() }

// network returns the network of one family.
func (s Settings) network(v6 bool) (p netip.Prefix) {
	for _, p := range s.Networks {
		if p.Addr().Is6() == v6 {
			return p
		}
	}
	return netip.Prefix{}
}

// Environment returns the content of subnet.env. The lines, their order and the gateway in
// place of the subnet's address are flannel's (pkg/subnet, WriteSubnetFile). flannel's CNI
// plugin understands neither quotes nor comments.
func (s Settings) Environment() []byte {
	var b strings.Builder
	for _, family := range []struct {
		v6     bool
		prefix string
	}{{false, "FLANNEL_"}, {true, "FLANNEL_IPV6_"}} {
		if p := s.pods(family.v6); p.IsValid() {
			gateway := netip.PrefixFrom(p.Addr().Next(), p.Bits())
			fmt.Fprintf(&b, "%sNETWORK=%s\n%sSUBNET=%s\n", family.prefix, s.network(family.v6), family.prefix, gateway)
		}
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", s.MTU, s.Masquerade)
	return []byte(b.String())
}

// cniVersion is the oldest version of the CNI specification that has everything used here,
// the CHECK command included. Runtimes and plugins since 2019 support it.
const cniVersion = "0.4.0"

// Names in the CNI configuration. cni0 is the name that flannel's plugin uses, too, so that
// a host that changes from flannel keeps its bridge.
const (
	cniNetwork = "mesh"
	cniBridge  = "cni0"
)

// confList is a network configuration list (CNI specification 0.4.0).
type confList struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

// bridge is the configuration of the bridge plugin, with host-local for addresses.
type bridge struct {
	Type             string    `json:"type"`
	Bridge           string    `json:"bridge"`
	IsDefaultGateway bool      `json:"isDefaultGateway"`
	HairpinMode      bool      `json:"hairpinMode"`
	IPMasq           bool      `json:"ipMasq"`
	MTU              int       `json:"mtu"`
	IPAM             hostLocal `json:"ipam"`
}

// hostLocal is the configuration of the host-local plugin, which hands out addresses.
type hostLocal struct {
	Type   string     `json:"type"`
	Ranges [][]subnet `json:"ranges"` // a pod gets one address of each inner list
	Routes []route    `json:"routes"`
}

// subnet is one range of addresses.
type subnet struct {
	Subnet netip.Prefix `json:"subnet"`
}

// route is a route inside each pod.
type route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw"` // without it the bridge plugin's CHECK does not find the route
}

// portmap is the configuration of the plugin that publishes ports of pods on the host.
type portmap struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
}

// ConfList returns the CNI configuration: pods on a bridge that is their gateway, with one
// address of each family, and published ports.
func (s Settings) ConfList() []byte {
	ipam := hostLocal{Type: "host-local", Ranges: [][]subnet{}, Routes: []route{}}
	for _, v6 := range []bool{false, true} {
		if p := s.pods(v6); p.IsValid() {
			ipam.Ranges = append(ipam.Ranges, []subnet{{p}})
			ipam.Routes = append(ipam.Routes, route{s.network(v6), p.Addr().Next()})
		}
	}
	doc, err := json.MarshalIndent(confList{CNIVersion: cniVersion, Name: cniNetwork, Plugins: []any{
		// The bridge must not masquerade: pods of other hosts have to see the pod's address.
		bridge{Type: "bridge", Bridge: cniBridge, IsDefaultGateway: true, HairpinMode: true,
			MTU: s.MTU, IPAM: ipam},
		portmap{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
	}}, "", "  ")
	if err != nil {
		panic(err) // strings, numbers and prefixes always have a JSON form
	}
	return append(doc, '\n')
}

// contents returns the wanted files: path -> content.
func (s Settings) contents() map[string][]byte {
	files := map[string][]byte{}
	if !s.Usable() {
		return files
	}
	if s.SubnetEnv != "" {
		files[s.SubnetEnv] = s.Environment()
	}
	if s.CNIConf != "" {
		files[s.CNIConf] = s.ConfList()
	}
	return files
}
