package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/configs"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/plan/plantest"
)

// The starter file is about this host where its address is certain, and else an example, which standard
// error says. Nodes stand before everything that is optional.
func TestInitKnowsThisHost(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for name, test := range map[string]struct {
		setup   []string
		address string // of the first node; empty: the example
		cidr    string
	}{
		"no address": {nil, "", "10.244.0.0/16"},
		"one address and no default route": {[]string{"addr add 172.18.0.9/24 dev u"},
			"172.18.0.9", "10.244.0.0/16"},
		"two addresses and no default route": {[]string{"addr add 172.18.0.9/24 dev u",
			"addr add 192.168.7.9/24 dev u"}, "", "10.244.0.0/16"},
		"IPv4": {[]string{"addr add 172.18.0.9/24 dev u",
			"route add default via 172.18.0.1"}, "172.18.0.9", "10.244.0.0/16"},
		"a source of its own": {[]string{"addr add 172.18.0.9/24 dev u",
			"addr add 172.18.0.10/24 dev u", "route add default via 172.18.0.1 src 172.18.0.10"},
			"172.18.0.10", "10.244.0.0/16"},
		"IPv6": {[]string{"addr add 2001:db8::9/64 dev u nodad",
			"route add default via 2001:db8::1"}, "2001:db8::9", "10.244.0.0/16"},
		"inside the example": {[]string{"addr add 10.244.3.9/24 dev u",
			"route add default via 10.244.3.1"}, "10.244.3.9", "10.245.0.0/16"},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				links := []string{"link add u type veth peer name v", "link set v up", "link set u up"}
				if err := n.IP(slices.Concat(links, test.setup)...); err != nil {
					t.Error(err)
					return
				}
				for _, args := range [][]string{{"init"}, {"init", "--minimal"}} {
					code, out, errs := meshd(args...)
					if code != 0 || (errs == "") != (test.address != "") {
						t.Errorf("%q: %d, %q", args, code, errs)
						return
					}
					judgeStarter(t, out, test.address, test.cidr)
				}
			})
		})
	}
}

// judgeStarter judges a file to start with.
func judgeStarter(t *testing.T, doc, address, cidr string) {
	t.Helper()
	if address == "" {
		if doc != string(configs.Starter) && doc != string(configs.MinimalExample) {
			t.Errorf("not an example:\n%s", doc)
		}
		return
	}
	c := plantest.Parse(t, doc)
	hostname, _ := os.Hostname()
	if len(c.Nodes) != 1 || c.Nodes[0].Address().Addr() != netip.MustParseAddr(address) ||
		c.Nodes[0].Name != config.NameFrom(hostname) || len(c.Warnings()) > 0 {
		t.Errorf("%+v, %v", c.Nodes, c.Warnings())
	}
	if len(c.Network.CIDR) != 1 || c.Network.CIDR[0].String() != cidr {
		t.Errorf("cidr %v", c.Network.CIDR)
	}
	head, _, _ := strings.Cut(doc, "[[node]]")
	if strings.Contains(head, "[dataplane]") {
		t.Error("nodes are not first")
	}
}

// A node is added to a file of whoever owns it; everything else stays, the mode and the owner, too.
func TestInitAdds(t *testing.T) {
	path := write(t, string(configs.Starter))
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	owner := os.Getuid()
	if owner == 0 {
		owner = 65534
		if err := os.Chown(path, owner, 65534); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link.toml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"edge-3", "172.18.0.5"}, {"edge-4", "172.18.0.6:9000", "10.244.9.0/24"}, {"edge-5", "172.18.0.7"},
	} {
		code, out, errs := meshd(slices.Concat([]string{"init", "-c", link, "--add"}, args)...)
		if code != 0 || out == "" || errs != "" {
			t.Fatalf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range plantest.Parse(t, string(doc)).Nodes {
		got = append(got, n.Name+" "+n.Address().String()+" "+n.Subnets[0].String())
	}
	want := []string{"edge-1 172.18.0.3:8285 10.244.2.0/24", "edge-2 172.18.0.4:8285 10.244.1.0/24",
		"edge-3 172.18.0.5:8285 10.244.3.0/24", "edge-4 172.18.0.6:9000 10.244.9.0/24",
		"edge-5 172.18.0.7:8285 10.244.10.0/24"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.FileMode(0o640) || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
		t.Errorf("mode %v, owner %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
	}
	if at, err := os.Readlink(link); err != nil || at != path {
		t.Errorf("the link was replaced: %q, %v", at, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("more than the file is left: %v", left)
	}
}

// What cannot be added leaves the file as it is.
func TestInitAddsNothingInvalid(t *testing.T) {
	good := write(t, string(configs.Starter))
	bad := write(t, "[network]\nfoo = 1\n")
	for name, args := range map[string][]string{
		"a name twice":      {good, "edge-2", "172.18.0.5"},
		"an address twice":  {good, "edge-3", "172.18.0.4"},
		"a subnet twice":    {good, "edge-3", "172.18.0.5", "10.244.1.0/24"},
		"a name in quotes":  {good, "\"", "172.18.0.5"},
		"no address":        {good, "edge-3", "172.18.0.300"},
		"a faulty file":     {bad, "edge-3", "172.18.0.5"},
		"no file":           {"/nonexistent", "edge-3", "172.18.0.5"},
		"no file to change": {"/dev/null", "edge-3", "172.18.0.5"},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := os.ReadFile(args[0])
			code, out, errs := meshd(slices.Concat([]string{"-c", args[0], "init", "--add"}, args[1:])...)
			if code != exitNo || out != "" || errs == "" {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			if after, _ := os.ReadFile(args[0]); string(after) != string(before) {
				t.Errorf("the file is now\n%s", after)
			}
		})
	}
}

// What is no mesh configuration is neither waited for nor read to its end.
func TestInitAddsToNothingStrange(t *testing.T) {
	folder := t.TempDir()
	fifo, huge := filepath.Join(folder, "fifo"), filepath.Join(folder, "huge")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o644), os.WriteFile(huge, nil, 0o644),
		os.Truncate(huge, 1<<40)); err != nil { // a file with a hole takes no room
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a FIFO": fifo, "a huge file": huge, "a folder": folder} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshd("-c", path, "init", "--add", "edge-3", "172.18.0.5")
			if code != exitNo || out != "" || !strings.Contains(errs, path) {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
}

// The file of the package has no node, and takes the first one.
func TestInitAddsTheFirstNode(t *testing.T) {
	head, _, _ := strings.Cut(string(configs.Starter), "\n[[node]]")
	path := write(t, head)
	if code, _, errs := meshd("init", "--add", "edge-1", "172.18.0.3", "-c", path); code != 0 {
		t.Fatalf("%d, %s", code, errs)
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := plantest.Parse(t, string(doc))
	if len(c.Nodes) != 1 || c.Nodes[0].Subnets[0].String() != "10.244.0.0/24" {
		t.Errorf("%+v", c.Nodes)
	}
}

// With --json what was added is an object, with the subnets that the node got.
func TestInitAddJSON(t *testing.T) {
	path := write(t, string(configs.MinimalExample))
	code, out, errs := meshd("--json", "-c", path, "init", "--add", "edge-3", "172.18.0.5")
	var told addedAnswer
	if err := json.Unmarshal([]byte(out), &told); code != 0 || err != nil {
		t.Fatalf("%d, %q, %q: %v", code, out, errs, err)
	}
	after, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	added := after.Nodes[len(after.Nodes)-1]
	want := addedAnswer{path, added.Name, "172.18.0.5:8285", []string{added.Subnets[0].String()}}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("%v, want %v", told, want)
	}
}

// With a key, the starter file encrypts packets, whether or not the host knows its address.
func TestInitEncrypts(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	const key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	for name, address := range map[string]string{"an address": "172.18.0.9", "no address": ""} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				links := []string{"link add u type veth peer name v", "link set v up", "link set u up"}
				if address != "" {
					links = append(links, "addr add "+address+"/24 dev u")
				}
				if err := n.IP(links...); err != nil {
					t.Error(err)
					return
				}
				for _, args := range [][]string{{"init"}, {"init", "--minimal"}} {
					code, out, errs := meshd(append(args, "--public-key", key)...)
					c := plantest.Parse(t, out)
					if code != 0 || errs != "" || !c.Sealed() || len(c.Nodes) != 1 {
						t.Errorf("%q: %d, %q, %s", args, code, errs, out)
						return
					}
					node := c.Nodes[0]
					if node.PublicKey.String() != key || len(node.Addresses) > 0 != (address != "") ||
						address != "" && node.Address().Addr().String() != address {
						t.Errorf("%q: %+v", args, node)
					}
				}
			})
		})
	}
	for _, args := range [][]string{{"init", "--public-key", key[1:]}, {"init", "--add", "a"},
		{"init", "--add", "--public-key", key}, {"init", "--from-wg", "x", "--public-key", key}} {
		if code, out, errs := meshd(args...); code != exitUsage || out != "" || strings.Contains(errs, key[1:]) {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
}

// A node with a key is added to a file that encrypts, with an address or without one.
func TestInitAddsKeys(t *testing.T) {
	const first, second, third = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
		"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="
	path := write(t, "[network]\ncidr = \"10.244.0.0/16\"\ntransport = \"wireguard\"\n"+
		"[[node]]\nname = \"edge-1\"\naddress = \"172.18.0.3\"\nsubnets = [\"10.244.1.0/24\"]\n"+
		"public_key = \""+first+"\"\n")
	for _, args := range [][]string{{"edge-2", "172.18.0.4", "--public-key", second},
		{"phone", "--public-key", third}} {
		if code, out, errs := meshd(append([]string{"init", "-c", path, "--add"}, args...)...); code != 0 ||
			!strings.Contains(out, args[0]) || errs != "" {
			t.Errorf("%q: %d, %q, %q", args, code, out, errs)
		}
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	nodes := plantest.Parse(t, string(doc)).Nodes
	if len(nodes) != 3 || nodes[1].PublicKey.String() != second || nodes[2].PublicKey.String() != third ||
		len(nodes[2].Addresses) > 0 {
		t.Errorf("%+v", nodes)
	}
	code, _, errs := meshd("init", "-c", path, "--add", "edge-3", "172.18.0.5")
	if code != exitNo || errs == "" {
		t.Errorf("without a key: %d, %q", code, errs)
	}
}
