package config

import (
	"slices"
	"strings"
)

// Guesses at what somebody meant who wrote a word that meshd does not know. A guess only ever
// becomes a proposal in a message: meshd never acts on it.

// synonyms are words of other programs, and of other habits, for keys and tables of this file, by
// the table that they stand in; "" is the top level. A synonym comes before a word that looks alike.
var synonyms = map[string]map[string]string{
	"": {
		"peer": nodeKey, "peers": nodeKey, "host": nodeKey, "hosts": nodeKey, "server": nodeKey,
		"servers": nodeKey, "member": nodeKey, "members": nodeKey,
		"mesh": "network", "net": "network", "engine": "dataplane", "nat": "masquerade", "masq": "masquerade",
		"prometheus": "metrics", "cni": "container", "health": "probe", "wg": "wireguard",
		"encryption": "wireguard", "tls": "wireguard", "policy": allowKey, "policies": allowKey, "acl": allowKey,
		"acls": allowKey, "rule": allowKey, "rules": allowKey, "firewall": allowKey, "permit": allowKey,
		"accept": allowKey,
	},
	"network": {
		"subnet": "cidr", "subnets": "cidr", "prefix": "cidr", "network": "cidr", "pod_cidr": "cidr",
		"range": "cidr", "listen_port": "port", "listenport": "port", "device": "interface",
		"dev": "interface", "iface": "interface", "ifname": "interface", "tun": "interface",
		"encryption": "transport", "encrypt": "transport", "encrypted": "transport", "encapsulation": "transport",
		"backend": "transport", "tunnel": "transport", "protocol": "transport",
	},
	"wireguard": {
		"listen_port": "port", "listenport": "port", "key": "private_key", "key_file": "private_key",
		"keyfile": "private_key", "secret": "private_key", "secret_key": "private_key",
		"private_key_file": "private_key", "private_key_path": "private_key",
	},
	"dataplane":  {"mode": "engine", "backend": "engine", "type": "engine", "gro": "offload", "gso": "offload"},
	"masquerade": {"enable": "enabled", "random": "fully_random", "exclusions": "exclude", "except": "exclude"},
	"metrics":    {"address": "listen", "port": "listen", "bind": "listen"},
	"container":  {"cni": "cni_conf", "flannel": "subnet_env"},
	nodeKey: {
		"ip": "address", "addr": "address", "public_ip": "address", "endpoints": "endpoint",
		"key": "public_key", "pubkey": "public_key", "pub_key": "public_key", "wireguard_key": "public_key",
		"wg_key": "public_key", "wireguard": "public_key", "next_key": "next_public_key",
		"new_public_key": "next_public_key", "public_key_next": "next_public_key",
		"gateway": "via", "hub": "via", "relay": "via",
		"next_hop": "via", "through": "via", "forwarder": "via",
		"hostname": "name", "id": "name", "host": "name",
		"cidr": "subnets", "prefix": "subnets", "prefixes": "subnets", "pods": "subnets", "pod_cidr": "subnets",
		"podcidr": "subnets", "network": "subnets", "networks": "subnets", "allowed_ips": "routes",
		"allowedips": "routes", "route": "routes", "lan": "routes",
	},
	allowKey: {
		"source": "from", "sources": "from", "src": "from", "destination": "to", "destinations": "to", "dst": "to",
		"dest": "to", "protocol": "proto", "protocols": "proto", "port": "proto", "ports": "proto",
		"service": "proto", "services": "proto", "id": "name", "label": "name", "comment": "name",
	},
	routeKey: {
		"network": "prefix", "subnet": "prefix", "cidr": "prefix", "to": "prefix", "dst": "prefix",
		"route": "prefix", "priority": "metric", "preference": "metric", "cost": "metric", "weight": "metric",
	},
}

// words are what people write for the values of keys that take one of several words.
var words = map[string]string{
	"ebpf": EngineKernel, "bpf": EngineKernel, "xdp": EngineKernel, "userspace": EngineUser,
	"user-space": EngineUser, "tun": EngineUser, "on": Auto, "true": Auto, "yes": Auto, "default": Auto,
	"false": Off, "no": Off, "none": Off, "disabled": Off, "tc": "tcx", "udp": "socket",
	"wg": TransportWireGuard, "wire-guard": TransportWireGuard, "encrypted": TransportWireGuard,
	"plain": TransportUDP, "flannel": TransportUDP, "cleartext": TransportUDP, "bare": TransportUDP,
}

// guessKey returns the key of a table that somebody may have meant; empty if none is near.
func guessKey(table, word string) string {
	folded := strings.ReplaceAll(strings.ToLower(word), "-", "_")
	if key := synonyms[table][folded]; key != "" {
		return key
	}
	return nearest(folded, known[table])
}

// guessWord returns the value that somebody may have meant; empty if none is near.
func guessWord(word string, values []string) string {
	folded := strings.ToLower(strings.TrimSpace(word))
	if meant := words[folded]; slices.Contains(values, meant) {
		return meant
	}
	return nearest(folded, values)
}

// homes returns the headers of the tables that have a key, for a key that stands in another one. A port
// alone is that of the mesh, and a name alone is not that of a rule.
func homes(key string) (tables []string) {
	for _, table := range known[""] { // in the order of the starter file
		if key == "port" && table == "wireguard" || key == "name" && table == allowKey {
			continue
		}
		if slices.Contains(known[table], key) {
			tables = append(tables, table)
		}
	}
	return tables
}

// header returns how a table begins in the file.
func header(table string) string {
	if isList(table) {
		return "[[" + table + "]]"
	}
	return "[" + table + "]"
}

// longestWord bounds the letters of a word that is worth comparing: no key is as long.
const longestWord = 32

// nearest returns the one of several words that is most like another; empty if that would take
// more than a third of its letters.
func nearest(word string, among []string) (best string) {
	if len(word) > longestWord {
		return ""
	}
	least := 1 + max(1, len(word)/3)
	for _, candidate := range among {
		if max(len(word)-len(candidate), len(candidate)-len(word)) >= least {
			continue // so many letters are missing alone; comparing costs much more
		}
		if n := distance(word, candidate); n < least {
			best, least = candidate, n
		}
	}
	return best
}

// distance counts the letters that somebody has to insert, remove, replace, or swap with their
// neighbour to turn one word into another (the optimal string alignment distance). b has at most
// longestWord letters. The cost is the product of both lengths.
func distance(a, b string) int {
	var rows [3][longestWord + 1]int
	before, last, row := rows[0][:len(b)+1], rows[1][:len(b)+1], rows[2][:len(b)+1]
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
