package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// sound is a file that the slips below spoil.
const sound = `[network]
cidr = "10.244.0.0/16"
mtu = 1400

[dataplane]
engine = "auto"

[[node]]
name = "edge-1"
address = "172.18.0.3"
subnets = ["10.244.1.0/24"]

[[node]]
name = "edge-2"
address = "172.18.0.4"
subnets = ["10.244.2.0/24"]
`

// slips are what people type in place of what the file needs: each replaces one piece of a good
// file. testdata/slips.want has what meshd says of them; read it as an operator would.
var slips = []struct {
	name, old, new string
	line           int // of the fault; 0: the first line that is different
}{
	{"one bracket around node", "[[node]]\nname = \"edge-1\"", "[node]\nname = \"edge-1\"", 0},
	{"one bracket around every node", `[[node]]`, `[node]`, 0},
	{"two brackets around network", `[network]`, `[[network]]`, 0},
	{"a header without its end", `[network]`, `[network`, 0},
	{"a header of a node without its end", "[[node]]\nname = \"edge-1\"", "[[node]\nname = \"edge-1\"", 0},
	{"a header with one bracket in front", "[[node]]\nname = \"edge-1\"", "[node]]\nname = \"edge-1\"", 0},
	{"a header without its beginning", `[network]`, `network]`, 0},
	{"a header of two words", `[network]`, `[the network]`, 0},
	{"a header in round brackets", `[network]`, `(network)`, 0},
	{"a header without a name", `[network]`, `[]`, 0},
	{"a key behind a header", "[network]\n", `[network] `, 0},
	{"a table with a plural", `[[node]]`, `[[nodes]]`, 0},
	{"a table of another program", `[[node]]`, `[[peer]]`, 0},
	{"a mistyped table", `[network]`, `[netwrok]`, 0},
	{"a table in capitals", `[network]`, `[Network]`, 0},
	{"an unknown table", "[dataplane]\nengine = \"auto\"", "[logging]\nlevel = \"info\"", 0},
	{"a table twice", "[dataplane]\nengine = \"auto\"", "[network]\nport = 8285", 0},
	{"a node without its header", "\n[[node]]\nname = \"edge-2\"", "\nname = \"edge-2\"", 0},
	{"no header above the first node", "\n[[node]]\nname = \"edge-1\"", "\nname = \"edge-1\"", 0},
	{"a key above its table", "[network]\ncidr = \"10.244.0.0/16\"", "cidr = \"10.244.0.0/16\"\n[network]", 0},
	{"a key in another table", `engine = "auto"`, "engine = \"auto\"\nport = 8285", 0},
	{"all keys above the tables", "[network]\n", ``, 0},
	{"a mistyped key", `address = "172.18.0.3"`, `adress = "172.18.0.3"`, 0},
	{"a mistyped key in every node", `address`, `adress`, 0},
	{"a singular", `subnets = ["10.244.1.0/24"]`, `subnet = ["10.244.1.0/24"]`, 0},
	{"a key of another program", `address = "172.18.0.3"`, `endpoint = "172.18.0.3"`, 0},
	{"a key in capitals", `cidr`, `CIDR`, 0},
	{"a key that nothing resembles", `mtu = 1400`, `colour = 1400`, 0},
	{"a key twice", `mtu = 1400`, "mtu = 1400\nmtu = 1500", 0},
	{"a key twice in a node", `name = "edge-1"`, "name = \"edge-1\"\nname = \"edge-3\"", 0},
	{"no equals sign", `mtu = 1400`, `mtu 1400`, 0},
	{"a colon", `mtu = 1400`, `mtu: 1400`, 0},
	{"a colon and an equals sign", `mtu = 1400`, `mtu := 1400`, 0},
	{"two equals signs", `mtu = 1400`, `mtu == 1400`, 0},
	{"an arrow", `mtu = 1400`, `mtu => 1400`, 0},
	{"no value", `mtu = 1400`, `mtu =`, 0},
	{"a comment for a value", `mtu = 1400`, `mtu = # 1400`, 0},
	{"a key alone", `mtu = 1400`, `mtu`, 0},
	{"a key of two words", `mtu = 1400`, `the mtu = 1400`, 0},
	{"a value without a key", `address = "172.18.0.3"`, `172.18.0.3`, 0},
	{"text without a key", `address = "172.18.0.3"`, `"172.18.0.3"`, 0},
	{"a key in quotes with a colon", `mtu = 1400`, `"mtu": 1400,`, 0},
	{"a comment of C", `mtu = 1400`, "// the MTU\nmtu = 1400", 0},
	{"a comment of C behind a number", `mtu = 1400`, `mtu = 1400 // bytes`, 0},
	{"a comment of C behind text", `name = "edge-1"`, `name = "edge-1" // hall 3`, 0},
	{"a comment of INI", `mtu = 1400`, "; the MTU\nmtu = 1400", 0},
	{"a comment of SQL", `mtu = 1400`, "-- the MTU\nmtu = 1400", 0},
	{"an address without quotes", `"172.18.0.3"`, `172.18.0.3`, 0},
	{"an address with a port without quotes", `"172.18.0.3"`, `172.18.0.3:8285`, 0},
	{"an IPv6 address without quotes", `"172.18.0.3"`, `2001:db8::3`, 0},
	{"a prefix without quotes", `["10.244.1.0/24"]`, `[10.244.1.0/24]`, 0},
	{"a name without quotes", `"edge-1"`, `edge-1`, 0},
	{"a word without quotes", `engine = "auto"`, `engine = auto`, 0},
	{"a path without quotes", `mtu = 1400`, "[container]\ncni_conf = /etc/cni/net.d/10-mesh.conflist", 4},
	{"a duration without quotes", `mtu = 1400`, "[probe]\ninterval = 1s", 4},
	{"no closing quote", `"edge-1"`, `"edge-1`, 0},
	{"no closing quote in a list", `["10.244.1.0/24"]`, `["10.244.1.0/24]`, 0},
	{"no opening quote", `"edge-1"`, `edge-1"`, 0},
	{"different quotes", `"edge-1"`, `"edge-1'`, 0},
	{"typographic quotes", `"172.18.0.3"`, `“172.18.0.3”`, 0},
	{"a typographic closing quote", `"172.18.0.3"`, `"172.18.0.3”`, 0},
	{"single typographic quotes", `"172.18.0.3"`, `‘172.18.0.3’`, 0},
	{"backticks", `"172.18.0.3"`, "`172.18.0.3`", 0},
	{"a backslash", `"edge-1"`, `"edge\1"`, 0},
	{"a backslash in a path", `mtu = 1400`, "[container]\ncni_conf = \"C:\\mesh\\\"", 4},
	{"text behind the closing quote", `"edge-1"`, `"edge"-1`, 0},
	{"a list without its end", `["10.244.1.0/24"]`, `["10.244.1.0/24"`, 0},
	{"a list without its end, with a comma", `["10.244.1.0/24"]`, `["10.244.1.0/24",`, 0},
	{"the last list without its end", `["10.244.2.0/24"]`, `["10.244.2.0/24"`, 0},
	{"no comma in a list", `["10.244.1.0/24"]`, `["10.244.1.0/24" "10.244.3.0/24"]`, 0},
	{"two commas in a list", `["10.244.1.0/24"]`, `["10.244.1.0/24",, "10.244.3.0/24"]`, 0},
	{"a semicolon in a list", `["10.244.1.0/24"]`, `["10.244.1.0/24"; "10.244.3.0/24"]`, 0},
	{"a list that a brace ends", `["10.244.1.0/24"]`, `["10.244.1.0/24"}`, 0},
	{"a list in round brackets", `["10.244.1.0/24"]`, `("10.244.1.0/24")`, 0},
	{"two brackets at the end", `["10.244.1.0/24"]`, `["10.244.1.0/24"]]`, 0},
	{"values with a comma and no list", `["10.244.1.0/24"]`, `"10.244.1.0/24", "10.244.3.0/24"`, 0},
	{"two prefixes in one text", `["10.244.1.0/24"]`, `["10.244.1.0/24, 10.244.3.0/24"]`, 0},
	{"text for a list", `["10.244.1.0/24"]`, `"10.244.1.0/24"`, 0},
	{"a list for text", `"edge-1"`, `["edge-1"]`, 0},
	{"an empty list of addresses", `"172.18.0.3"`, `[]`, 0},
	{"a table for an address", `"172.18.0.3"`, `{ ip = "172.18.0.3" }`, 0},
	{"a number in a list of addresses", `"172.18.0.3"`, `["172.18.0.3", 8285]`, 0},
	{"an address twice", `"172.18.0.3"`, `["172.18.0.3", "172.18.0.3:9000"]`, 0},
	{"a host name twice", `"172.18.0.3"`, `["edge-1.lan", "Edge-1.lan."]`, 0},
	{"an address of another node in a list", `"172.18.0.3"`, `["10.0.0.3", "172.18.0.4"]`, 15},
	{"too many addresses", `"172.18.0.3"`,
		`["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "x"]`, 0},
	{"a comma at the end of a line", `mtu = 1400`, `mtu = 1400,`, 0},
	{"a comma behind text", `"edge-1"`, `"edge-1",`, 0},
	{"two keys on a line", "name = \"edge-1\"\n", `name = "edge-1" `, 0},
	{"an inline table without its end",
		"[network]\ncidr = \"10.244.0.0/16\"\nmtu = 1400",
		`network = {cidr = "10.244.0.0/16", mtu = 1400`, 0},
	{"a non-breaking space", `mtu = 1400`, "mtu\u00a0= 1400", 0},
	{"a non-breaking space in a value", `mtu = 1400`, "mtu = 1400\u00a0", 0},
	{"an invisible character", `mtu = 1400`, "\u200bmtu = 1400", 0},
	{"a byte order mark inside", `[dataplane]`, "\ufeff[dataplane]", 0},
	{"a wide equals sign", `mtu = 1400`, `mtu ＝ 1400`, 0},
	{"a dash for a minus", `mtu = 1400`, `mtu = –1400`, 0},
	{"a control character", `"edge-1"`, "\"edge\x07-1\"", 0},
	{"a merge conflict", `mtu = 1400`, "<<<<<<< HEAD\nmtu = 1400\n=======\nmtu = 1420\n>>>>>>> b", 0},
	{"true in capitals", `engine = "auto"`, `spread = True`, 0},
	{"yes for true", `engine = "auto"`, `spread = yes`, 0},
	{"true in quotes", `engine = "auto"`, `spread = "true"`, 0},
	{"a number in quotes", `mtu = 1400`, `mtu = "1400"`, 0},
	{"a number with a unit", `mtu = 1400`, `mtu = 1400 bytes`, 0},
	{"a leading zero", `mtu = 1400`, `mtu = 01400`, 0},
	{"a number with a comma", `mtu = 1400`, `mtu = 1,400`, 0},
	{"a fraction", `mtu = 1400`, `mtu = 1400.5`, 0},
	{"a huge number", `mtu = 1400`, `mtu = 99999999999999999999`, 0},
	{"null", `mtu = 1400`, `mtu = null`, 0},
	{"a word for engine", `engine = "auto"`, `engine = "ebpf"`, 0},
	{"a mistyped engine", `engine = "auto"`, `engine = "kernal"`, 0},
	{"a duration with a word", `mtu = 1400`, "[probe]\ninterval = \"1 sec\"", 4},
	{"a duration without a unit", `mtu = 1400`, "[probe]\ninterval = \"5\"", 4},
	{"a number for a duration", `mtu = 1400`, "[probe]\ninterval = 5", 4},
	{"a prefix that is too long", `"10.244.1.0/24"`, `"10.244.1.0/33"`, 0},
	{"a prefix with a mask", `"10.244.1.0/24"`, `"10.244.1.0/255.255.255.0"`, 0},
	{"a prefix without a length", `"10.244.1.0/24"`, `"10.244.1.0"`, 0},
	{"a prefix with host bits", `"10.244.1.0/24"`, `"10.244.1.1/24"`, 0},
	{"a range of addresses", `"10.244.1.0/24"`, `"10.244.1.0-10.244.1.255"`, 0},
	{"a star", `"10.244.1.0/24"`, `"10.244.1.*"`, 0},
	{"three numbers", `"10.244.1.0/24"`, `"10.244.1/24"`, 0},
	{"a number above 255", `"172.18.0.3"`, `"172.18.0.300"`, 0},
	{"a leading zero in an address", `"172.18.0.3"`, `"172.18.0.003"`, 0},
	{"an address with a length", `"172.18.0.3"`, `"172.18.0.3/24"`, 0},
	{"an underscore in a host name", `"172.18.0.3"`, `"edge_1.example.org"`, 0},
	{"a blank behind a host name", `"172.18.0.3"`, `"edge-1.example.org "`, 0},
	{"two host names in one text", `"172.18.0.3"`, `"edge-1.lan, edge-1.example.org"`, 0},
	{"an umlaut in a host name", `"172.18.0.3"`, `"büro.example.org"`, 0},
	{"two dots in a host name", `"172.18.0.3"`, `"edge-1..example.org"`, 0},
	{"a hyphen at the end of a host name", `"172.18.0.3"`, `"edge-.example.org"`, 0},
	{"a host name with a port of words", `"172.18.0.3"`, `"edge-1.example.org:mesh"`, 0},
	{"a host name with a port that is too high", `"172.18.0.3"`, `"edge-1.example.org:82850"`, 0},
	{"a host name in brackets", `"172.18.0.3"`, `"[edge-1.example.org]:8285"`, 0},
	{"a host name with a length", `"172.18.0.3"`, `"edge-1.example.org/24"`, 0},
	{"localhost", `"172.18.0.3"`, `"localhost"`, 0},
	{"a number for an address", `"172.18.0.3"`, `"8285"`, 0},
	{"three numbers for an address", `"172.18.0.3"`, `"172.18.3"`, 0},
	{"five numbers for an address", `"172.18.0.3"`, `"172.18.0.3.1"`, 0},
	{"a letter in an address", `"172.18.0.3"`, `"172.18.0.3a"`, 0},
	{"a letter for a number in an address", `"172.18.0.3"`, `"l72.18.0.3"`, 0},
	{"a port that is too high", `"172.18.0.3"`, `"172.18.0.3:82850"`, 0},
	{"a port without a number", `"172.18.0.3"`, `"172.18.0.3:"`, 0},
	{"brackets without a port", `"172.18.0.3"`, `"[2001:db8::3]"`, 0},
	{"a URL", `"172.18.0.3"`, `"udp://172.18.0.3"`, 0},
	{"a blank in an address", `"172.18.0.3"`, `" 172.18.0.3"`, 0},
	{"two addresses", `"172.18.0.3"`, `"172.18.0.3, 10.0.0.3"`, 0},
	{"an empty address", `"172.18.0.3"`, `""`, 0},
	{"the default route", `["10.244.1.0/24"]`, "[\"10.244.1.0/24\"]\nroutes = [\"0.0.0.0/0\"]", 0},
	{"a route without its prefix", `["10.244.1.0/24"]`, "[\"10.244.1.0/24\"]\nroutes = [{ metric = 10 }]", 0},
	{"a mistyped key of a route", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = \"192.168.7.0/24\", metrik = 10 }]", 0},
	{"a synonym in a route", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ cidr = \"192.168.7.0/24\" }]", 0},
	{"a strange key of a route", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = \"192.168.7.0/24\", colour = 10 }]", 0},
	{"a metric in quotes", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = \"192.168.7.0/24\", metric = \"10\" }]", 0},
	{"a metric that is too high", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = \"192.168.7.0/24\", metric = 70000 }]", 0},
	{"a route with host bits", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = \"192.168.7.1/24\" }]", 0},
	{"a list of prefixes in a route", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [{ prefix = [\"192.168.7.0/24\"] }]", 0},
	{"a route that is no list", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = { prefix = \"192.168.7.0/24\" }", 0},
	{"a header for a route", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\n[[node.routes]]\nprefix = \"192.168.7.0/24\"", 0},
	{"a route twice in a node", `["10.244.1.0/24"]`,
		"[\"10.244.1.0/24\"]\nroutes = [\"192.168.7.0/24\", { prefix = \"192.168.7.0/24\", metric = 5 }]", 0},
	{"a name in capitals", `"edge-1"`, `"Edge_1"`, 0},
	{"a relative path", `mtu = 1400`, "[container]\ncni_conf = \"10-mesh.conflist\"", 4},
	{"a listener without a host", `mtu = 1400`, "[metrics]\nlisten = 9285", 4},
	{"an interface with a blank", `mtu = 1400`, `interface = "mesh 0"`, 0},
	{"a port of its own", `address = "172.18.0.3"`, "address = \"172.18.0.3\"\nport = 9000", 0},
	{"a comma in an address", `"172.18.0.3"`, `"172.18.0,3"`, 0},
	{"all of the network", `["10.244.2.0/24"]`, `["10.244.0.0/16"]`, 0},
	{"a list in quotes", `["10.244.1.0/24"]`, `'["10.244.1.0/24"]'`, 0},
	{"another network", `cidr = "10.244.0.0/16"`, `cidr = "10.24.0.0/16"`, 0},
	{"a dot in a key", `address = "172.18.0.3"`, `addr.ess = "172.18.0.3"`, 0},
	{"a bracket in a key", `address = "172.18.0.3"`, `addr[ess = "172.18.0.3"`, 0},
	{"a comma behind a key", `address = "172.18.0.3"`, `address, = "172.18.0.3"`, 0},
	{"a slash before a header", "[dataplane]", "/[dataplane]", 0},
	{"a letter before a header", "[dataplane]", "x[dataplane]", 0},
	{"a slash alone", `engine = "auto"`, "engine = \"auto\"\n/", 0},
	{"a blank in a name", `"edge-1"`, `"edge #1"`, 0},
	{"a command of an editor", `engine = "auto"`, "engine = \"auto\"\n:wq", 0},
	{"an address inside of a subnet", `"172.18.0.3"`, `"10.244.1.3"`, 0},
	{"three brackets", "[[node]]\nname = \"edge-1\"", "[[node]]]\nname = \"edge-1\"", 0},
	{"quotes inside of quotes", `"edge-1"`, `""edge-1""`, 0},
	{"a public key of wg-quick", `address = "172.18.0.3"`, `address = "172.18.0.3"
PublicKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="`, 0},
	{"a short word for a public key", `address = "172.18.0.3"`, `address = "172.18.0.3"
pubkey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="`, 0},
	{"a key of wg-quick without quotes", `address = "172.18.0.3"`, `address = "172.18.0.3"
public_key = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=`, 0},
	{"a private key in a node", `address = "172.18.0.3"`, `address = "172.18.0.3"
private_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="`, 0},
	{"a preshared key", `address = "172.18.0.3"`, `address = "172.18.0.3"
PresharedKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="`, 0},
	{"a keepalive", `address = "172.18.0.3"`, `address = "172.18.0.3"
PersistentKeepalive = 25`, 0},
	{"a relay", `address = "172.18.0.3"`, `address = "172.18.0.3"
relay = "edge-2"`, 0},
	{"a short name of a table", "[dataplane]\nengine = \"auto\"", "[wg]\nport = 51820", 0},
	{"encryption as a switch", `mtu = 1400`, `encryption = true`, 0},
	{"a short name of the transport", `mtu = 1400`, `transport = "wg"`, 0},
	{"the transport in capitals", `mtu = 1400`, `transport = "WireGuard"`, 0},
	{"a key of another table in [network]", `mtu = 1400`, `private_key = "/etc/meshd/private.key"`, 0},
}

// wholes are files that are wrong as a whole.
var wholes = []struct {
	name, doc string
	line      int
}{
	{"line ends of old Macs", strings.ReplaceAll(sound, "\n", "\r"), 1},
	{"two files in one", sound + "\ufeff" + sound, 17},
	{"nothing", ``, 1},
	{"comments only", "# cidr = \"10.244.0.0/16\"\n", 1},
	{"YAML", "network:\n  cidr: 10.244.0.0/16\nnodes:\n  - name: edge-1\n", 1},
	{"YAML of Kubernetes", "---\napiVersion: v1\nkind: ConfigMap\n", 1},
	{"JSON", "{\n  \"network\": {\"cidr\": \"10.244.0.0/16\"}\n}\n", 1},
	{"a list of JSON", "[\n  {\"name\": \"edge-1\"}\n]\n", 1},
	{"a web page", "<!DOCTYPE html>\n<html>404</html>\n", 1},
	{"a file of wg-quick", "[Interface]\nAddress = 10.8.0.1/24\n\n[Peer]\nAllowedIPs = 10.8.0.2/32\n", 1},
	{"a binary file", "\x7fELF\x02\x01\x01\x00\x00\x00", 1},
	{"a program", "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x03\x00\x3e\x00\x01\x00\x00\x00" +
		"\xd0\x5b\x00\x00\x00\x00\x00\x00\x40" + strings.Repeat("\x00", 31), 1},
	{"a binary file with zeros inside", "\x1f\x8b\x08\x00\x00abc\x01", 1},
	{"UTF-16", "\xff\xfe[\x00n\x00", 1},
	{"Latin-1", strings.Replace(sound, "edge-1", "b\xfcro", 1), 9},
	{"zeros after a power cut", sound + "\x00\x00\x00\x00", 17},
	{"a power cut in a text", sound[:94], 9},
	{"a power cut in a list", sound[:148], 11},
}

// everywhere are the slips that somebody makes in each node.
var everywhere = map[string]int{ // how many faults that gives
	"one bracket around every node": 1, "a table with a plural": 1, "a table of another program": 1,
	"a mistyped key in every node": 2,
}

// A slip is one fault, at its line, and the fault says what to write.
func TestSlips(t *testing.T) {
	var said strings.Builder
	judge := func(name, doc string, line, faults int) {
		_, err := Parse("mesh.toml", []byte(doc))
		all, _ := err.(Faults)
		fmt.Fprintf(&said, "# %s\n%s\n", name, all.Error())
		t.Run(name, func(t *testing.T) {
			if len(all) != faults {
				t.Fatalf("%d faults, want %d: %v", len(all), faults, err)
			}
			if all[0].Line != line {
				t.Errorf("line %d, want %d: %v", all[0].Line, line, all[0])
			}
			for _, vague := range []string{notation, unknownTrouble} {
				if all[0].Message == vague {
					t.Errorf("no hint fits: %v", all[0])
				}
			}
		})
	}
	for _, s := range slips {
		times, faults := 1, 1
		if n := everywhere[s.name]; n > 0 {
			times, faults = -1, n
		}
		doc := strings.Replace(sound, s.old, s.new, times)
		if s.line == 0 {
			s.line = 1 + strings.Count(sound[:sharedPrefix(sound, doc)], "\n")
		}
		judge(s.name, doc, s.line, faults)
	}
	for _, w := range wholes {
		judge(w.name, w.doc, w.line, 1)
	}
	const golden = "testdata/slips.want"
	if *update {
		if err := os.WriteFile(golden, []byte(said.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if said.String() != string(want) {
		t.Errorf("what meshd says has changed: run with -update, and read the difference of %s", golden)
	}
}
