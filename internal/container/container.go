// Package container tells the container runtimes of a host which addresses its pods get:
// in subnet.env, which flannel's CNI plugin and scripts around Docker read, and in a
// configuration for CNI that needs only the plugins everybody has.
//
// It is a room of its own because what it keeps are files, which have an owner's ways: they
// are written whole or not at all, come back when somebody removes them, and are taken
// away only as long as they are what was written.
package container

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Settings is what runtimes are told about a host.
type Settings struct {
	SubnetEnv string // path of the one file; empty: not written
	CNIConf   string // path of the other

	Networks   []netip.Prefix // of all pods, one of each family at most
	Subnets    []netip.Prefix // of the pods of this host
	MTU        int            // of pods, bytes
	Masquerade bool           // pods' packets to the outside are masqueraded already
}

// smallest is how many bits of an address a subnet must leave to its hosts: the
// network itself, the bridge, and a pod at least.
const smallest = 2

// pods returns the first subnet of one family in which there is room for pods. A bridge of
// the CNI plugin can be the gateway of one IPv4 subnet only, and subnet.env names one.
func (s Settings) pods(v6 bool) netip.Prefix {
	for _, p := range s.Subnets {
		if p.Addr().Is6() == v6 && p.Addr().BitLen()-p.Bits() >= smallest {
			return p
		}
	}
	return netip.Prefix{}
}

// Usable tells whether there is a subnet with room for pods: else there is nothing to
// tell runtimes, and no file is written.
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

// Environment returns the content of subnet.env. Its lines, their order and the gateway
// as the subnet's address are those of flannel (pkg/subnet, WriteSubnetFile), whose CNI
// plugin knows neither quotes nor comments.
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

// cniVersion is the oldest version of the CNI specification with all that is used here,
// CHECK included: runtimes and plugins of 2019 know it.
const cniVersion = "0.4.0"

// Names in the configuration for CNI.
const (
	cniNetwork = "mesh"
	cniBridge  = "cni0"
)

type confList struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []any  `json:"plugins"`
}

// bridge is the configuration of the plugin of that name, and of host-local below it.
type bridge struct {
	Type             string    `json:"type"`
	Bridge           string    `json:"bridge"`
	IsDefaultGateway bool      `json:"isDefaultGateway"`
	HairpinMode      bool      `json:"hairpinMode"`
	IPMasq           bool      `json:"ipMasq"`
	MTU              int       `json:"mtu"`
	IPAM             hostLocal `json:"ipam"`
}

type hostLocal struct {
	Type   string     `json:"type"`
	Ranges [][]subnet `json:"ranges"` // a pod gets an address of each set
	Routes []route    `json:"routes"`
}

type subnet struct {
	Subnet netip.Prefix `json:"subnet"`
}

type route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw"` // else CHECK of the bridge plugin does not find the route again
}

type portmap struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
}

// ConfList returns the configuration for CNI: pods on a bridge that is their gateway, with
// an address of each family, and published ports.
func (s Settings) ConfList() []byte {
	ipam := hostLocal{Type: "host-local", Ranges: [][]subnet{}, Routes: []route{}}
	for _, v6 := range []bool{false, true} {
		if p := s.pods(v6); p.IsValid() {
			ipam.Ranges = append(ipam.Ranges, []subnet{{p}})
			ipam.Routes = append(ipam.Routes, route{s.network(v6), p.Addr().Next()})
		}
	}
	doc, err := json.MarshalIndent(confList{CNIVersion: cniVersion, Name: cniNetwork, Plugins: []any{
		// Not masqueraded by the bridge: pods of other hosts see each other's addresses.
		bridge{Type: "bridge", Bridge: cniBridge, IsDefaultGateway: true, HairpinMode: true, MTU: s.MTU, IPAM: ipam},
		portmap{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
	}}, "", "  ")
	if err != nil {
		panic(err) // strings, numbers and prefixes always can be
	}
	return append(doc, '\n')
}

// contents returns what is to be at which path.
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
