package container

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"example.org/meshd/internal/nstest"
)

var update = flag.Bool("update", false, "write testdata anew")

func prefixes(texts ...string) (ps []netip.Prefix) {
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

var cases = map[string]Settings{
	"ipv4": {Networks: prefixes("10.244.0.0/16"), MTU: 1472, Masquerade: true,
		Subnets: prefixes("10.244.2.0/24")},
	"dual": {Networks: prefixes("fd00:10:244::/48", "10.244.0.0/16"), MTU: 1452,
		Subnets: prefixes("10.244.2.0/24", "fd00:10:244:2::/64", "10.244.9.0/25", "10.244.8.7/32")},
	"ipv6": {Networks: prefixes("fd00:10:244::/48"), MTU: 1452, Masquerade: true,
		Subnets: prefixes("fd00:10:244:2::/64")},
	"one-only": {Networks: prefixes("10.244.0.0/16", "fd00:10:244::/48"), MTU: 8972,
		Subnets: prefixes("10.244.2.0/30")},
}

// What runtimes read, byte for byte.
func TestContent(t *testing.T) {
	for name, s := range cases {
		for file, got := range map[string][]byte{name + ".env": s.Environment(), name + ".conflist": s.ConfList()} {
			t.Run(file, func(t *testing.T) {
				path := filepath.Join("testdata", file)
				if *update {
					if err := os.WriteFile(path, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != string(want) {
					t.Errorf("got:\n%swant\n%s", got, want)
				}
			})
		}
	}
}

// Runtimes' own library takes the configuration, and finds the plugins that Debian has.
func TestConfListIsValid(t *testing.T) {
	nstest.RequireCNI(t)
	for name, s := range cases {
		t.Run(name, func(t *testing.T) {
			list, err := libcni.ConfListFromBytes(s.ConfList())
			if err != nil {
				t.Fatal(err)
			}
			runtime := libcni.NewCNIConfig([]string{nstest.CNIPlugins}, nil)
			capabilities, err := runtime.ValidateNetworkList(t.Context(), list)
			if err != nil {
				t.Error(err)
			}
			if !slices.Equal(capabilities, []string{"portMappings"}) || list.Name != "mesh" || len(list.Plugins) != 2 {
				t.Errorf("%+v, capabilities %v", list, capabilities)
			}
		})
	}
}

func TestNoRoomForPods(t *testing.T) {
	s := Settings{SubnetEnv: "/nowhere/subnet.env", Networks: prefixes("10.244.0.0/16"),
		Subnets: prefixes("10.244.2.0/31", "10.244.3.3/32")}
	if s.Usable() || len(s.contents()) != 0 {
		t.Errorf("%v", s.contents())
	}
}
