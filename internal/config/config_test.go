package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/meshd/configs"
)

var update = flag.Bool("update", false, "rewrite testdata/*/*.want")

// Every file in testdata/bad is refused with exactly the lines in its .want.
func TestBadFiles(t *testing.T) {
	golden(t, "testdata/bad", func(t *testing.T, doc []byte) string {
		_, err := Parse("mesh.toml", doc)
		faults, ok := errors.AsType[Faults](err)
		if !ok || len(faults) == 0 {
			t.Fatalf("accepted: %v", err)
		}
		return faults.Error() + "\n"
	})
}

// Every file in testdata/warn is accepted, with exactly the warnings in its .want.
func TestWarnings(t *testing.T) {
	golden(t, "testdata/warn", func(t *testing.T, doc []byte) string {
		c, err := Parse("mesh.toml", doc)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, w := range c.Warnings() {
			fmt.Fprintln(&b, w)
		}
		return b.String()
	})
}

// golden compares what is said of each file in a folder with the file's .want.
func golden(t *testing.T, folder string, said func(t *testing.T, doc []byte) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", folder, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			doc, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := said(t, doc)
			wantFile := strings.TrimSuffix(file, ".toml") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

// Every file under configs/ is accepted without a warning.
func TestShippedFiles(t *testing.T) {
	files, err := fs.Glob(configs.Files, "*.toml")
	if err != nil || len(files) < 3 {
		t.Fatalf("shipped files: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			doc, _ := configs.Files.ReadFile(file)
			c, err := Parse(file, doc)
			if err != nil {
				t.Error(err)
			} else if warnings := c.Warnings(); len(warnings) > 0 {
				t.Error(warnings)
			}
		})
	}
}

// The starter file names every key there is, so that it cannot fall behind.
func TestStarterExplainsEveryKey(t *testing.T) {
	for table, keys := range known {
		for _, key := range keys {
			if table == "" {
				key = "[" + key + "]"
			}
			if !strings.Contains(string(configs.Starter), key) {
				t.Errorf("configs/mesh.toml does not mention %s of [%s]", key, table)
			}
		}
	}
}

// The starter's commented lines are the defaults: with them taken away or
// uncommented, the values are the same.
func TestDefaults(t *testing.T) {
	c, err := Parse("starter", configs.Starter)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path: "starter", Sum: c.Sum, Meaning: c.Meaning, doc: c.doc, edit: c.edit,
		Network: Network{Name: "mesh", CIDR: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			Port: 8285, Interface: "mesh0"},
		Dataplane:  Dataplane{Engine: "auto", Receive: "auto", Offload: "auto"},
		Masquerade: Masquerade{Enabled: true, FullyRandom: true, Forward: true},
		Probe:      Probe{Interval: time.Second},
		Container:  Container{SubnetEnv: "/run/flannel/subnet.env"},
		Transport:  "udp",
		WireGuard:  WireGuard{Port: 51820, PrivateKey: "/etc/meshd/private.key"},
		Nodes: []Node{
			{Name: "edge-1", Addresses: []Address{{AddrPort: netip.MustParseAddrPort("172.18.0.3:8285")}},
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}},
			{Name: "edge-2", Addresses: []Address{{AddrPort: netip.MustParseAddrPort("172.18.0.4:8285")}},
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	doc := `
[network]
name = "edge"
transport = "wireguard"
cidr = ["fd00::/48", "10.0.0.0/8"]
port = 1
interface = "m"
mtu = 1280
[dataplane]
engine = "user"
receive = "xdp"
offload = "off"
queues = 2
spread = true
[masquerade]
enabled = false
fully_random = false
exclude = ["192.168.0.0/16", "fd01::/64"]
forward = false
[probe]
interval = "0s"
[metrics]
listen = ":9285"
[container]
subnet_env = ""
cni_conf = "/x"
[wireguard]
port = 9
private_key = "/y"
[[node]]
name = "a.b-1"
address = "[2001:db8::1]:5"
subnets = ["10.1.0.0/24"]
routes = ["192.168.0.0/16", "192.168.1.0/24"]
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
endpoint = "Router.example.org:7"
[[node]]
name = "b"
subnets = ["10.2.0.0/24"]
public_key = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
via = "a.b-1"
endpoint = ""
[[node]]
name = "c"
subnets = ["10.3.0.0/24"]
public_key = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="
endpoint = "2001:db8::3"
via = ""
`
	c, err := Parse("x", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix
	want := &Config{
		Path: "x", Sum: c.Sum, Meaning: c.Meaning, doc: c.doc, edit: c.edit,
		Network: Network{Name: "edge", CIDR: []netip.Prefix{p("fd00::/48"), p("10.0.0.0/8")}, Port: 1,
			Interface: "m", MTU: 1280},
		Dataplane:  Dataplane{Engine: "user", Receive: "xdp", Offload: "off", Queues: 2, Spread: true},
		Masquerade: Masquerade{Exclude: []netip.Prefix{p("192.168.0.0/16"), p("fd01::/64")}},
		Metrics:    Metrics{Listen: ":9285"},
		Container:  Container{CNIConf: "/x"},
		Transport:  "wireguard",
		WireGuard:  WireGuard{Port: 9, PrivateKey: "/y"},
		Nodes: []Node{{Name: "a.b-1", Addresses: []Address{{AddrPort: netip.MustParseAddrPort("[2001:db8::1]:5")}},
			Subnets: []netip.Prefix{p("10.1.0.0/24")},
			Routes:  []Route{{p("192.168.0.0/16"), 100}, {p("192.168.1.0/24"), 100}}, PublicKey: keyOf(t, 0),
			Endpoint: Address{"router.example.org", netip.AddrPortFrom(netip.Addr{}, 7)}},
			{Name: "b", Subnets: []netip.Prefix{p("10.2.0.0/24")}, PublicKey: keyOf(t, 1), Via: "a.b-1"},
			{Name: "c", Subnets: []netip.Prefix{p("10.3.0.0/24")}, PublicKey: keyOf(t, 2),
				Endpoint: Address{AddrPort: netip.MustParseAddrPort("[2001:db8::3]:9")}}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// What is found wrong later has its place, too, also where the key is not written.
func TestFaultsFoundLater(t *testing.T) {
	c, err := Parse("x", []byte(someNetwork+"interface = \"mesh7\"\n"+someNode))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"network.interface": "x:3:13: error: network.interface: not 7",
		"dataplane.engine":  "x:1:1: error: dataplane.engine: not 7",
	} {
		if got := c.Fault(key, "not %d", 7).Error(); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "none.toml"), dir} {
		_, err := Load(path)
		faults, ok := errors.AsType[Faults](err)
		if !ok || len(faults) != 1 || !strings.HasPrefix(err.Error(), path+": error: cannot read the file: ") {
			t.Errorf("Load(%q) = %v", path, err)
		}
	}
	big := filepath.Join(dir, "big.toml")
	if err := os.WriteFile(big, make([]byte, MaxSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil {
		t.Error("Load accepts a file above the limit")
	}
}

// manyNodes returns a document of n nodes, each a /24.
func manyNodes(n int) []byte {
	var b strings.Builder
	b.WriteString("[network]\ncidr = \"10.0.0.0/8\"\n")
	for i := range n {
		fmt.Fprintf(&b, "\n[[node]]\nname    = \"edge-%d\"\n", i)
		fmt.Fprintf(&b, "address = \"172.%d.%d.%d\"\n", 16+i/65536, i/256%256, i%256)
		fmt.Fprintf(&b, "subnets = [\"10.%d.%d.0/24\"]\n", i/256, i%256)
	}
	return []byte(b.String())
}

func BenchmarkParseLargestMesh(b *testing.B) {
	doc := largestMesh()
	for b.Loop() {
		if _, err := Parse("x", doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse10000Nodes(b *testing.B) {
	doc := manyNodes(10000)
	for b.Loop() {
		if _, err := Parse("x", doc); err != nil {
			b.Fatal(err)
		}
	}
}
