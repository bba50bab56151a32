package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "example.org/meshd/"

// May know each other: what each room may import of ours (docs/architecture.md
// has the picture). A room that is not listed may import nothing.
var arrows = map[string][]string{
	"configs":                   {},
	"internal/text":             {},
	"internal/text/hostile":     {},
	"internal/config":           {"internal/text"},
	"internal/mesh":             {},
	"internal/table":            {},
	"internal/link":             {},
	"internal/nft":              {},
	"internal/masq":             {"internal/nft"},
	"internal/filter":           {"internal/nft"},
	"internal/migrate":          {},
	"internal/dataplane/packet": {},
	"internal/dataplane/virtio": {"internal/dataplane/packet"},
	"internal/dataplane/gro":    {"internal/dataplane/packet", "internal/dataplane/virtio"},
	"internal/dataplane/tun":    {"internal/dataplane/packet", "internal/dataplane/virtio"},
	"internal/dataplane/udp":    {"internal/dataplane/packet"},
	"internal/dataplane":        {"internal/dataplane/packet", "internal/mesh"},
	"internal/dataplane/user": {"internal/dataplane", "internal/dataplane/gro", "internal/dataplane/packet",
		"internal/dataplane/virtio", "internal/mesh", "internal/table"},
	"internal/foreign":          {},
	"internal/container":        {"internal/foreign"},
	"internal/dataplane/kernel": {"internal/dataplane", "internal/dataplane/user", "internal/foreign", "internal/link", "internal/mesh"},
	"internal/control":          {"internal/text"},
	"internal/probe":            {},
	"internal/daemon": {"internal/config", "internal/container", "internal/control", "internal/dataplane", "internal/dataplane/kernel", "internal/dataplane/tun",
		"internal/dataplane/udp", "internal/dataplane/user", "internal/filter", "internal/link", "internal/masq", "internal/mesh", "internal/nft", "internal/probe"},
	"cmd/meshd":                {"configs", "internal/config", "internal/container", "internal/control", "internal/daemon", "internal/dataplane/kernel", "internal/filter", "internal/link", "internal/masq", "internal/migrate", "internal/text"},
	"internal/tui/cell":        {"internal/text"},
	"internal/tui":             {"internal/control", "internal/text", "internal/tui/cell"},
	"cmd/meshtui":              {"internal/control", "internal/text", "internal/tui"},
	"internal/nstest":          {},
	"internal/e2e":             {},
	"internal/e2e/demo":        {"configs", "internal/nstest"},
	"internal/e2e/install":     {},
	"internal/e2e/kernels":     {},
	"internal/e2e/screenshots": {"configs", "internal/nstest"},
	"internal/e2e/bench":       {"internal/control", "internal/dataplane/packet", "internal/dataplane/udp", "internal/nstest"},
}

// Each third-party module is for one room, whose folder is the beginning of a path
// (x/sys and the test rooms aside).
var rooms = map[string]string{
	"github.com/charmbracelet/bubbletea":  "internal/tui",
	"github.com/charmbracelet/lipgloss":   "internal/tui/cell",
	"github.com/charmbracelet/x":          "internal/tui",
	"github.com/muesli/termenv":           "internal/tui/cell",
	"github.com/BurntSushi/toml":          "internal/config",
	"github.com/fsnotify/fsnotify":        "internal/config",
	"github.com/songgao/water":            "internal/dataplane/tun",
	"github.com/vishvananda/netlink":      "internal/link",
	"github.com/safchain/ethtool":         "internal/link",
	"github.com/google/nftables":          "internal/nft",
	"github.com/google/renameio":          "internal/container",
	"github.com/cilium/ebpf":              "internal/dataplane/kernel",
	"github.com/prometheus/client_golang": "internal/control",
	"github.com/coreos/go-iptables":       "internal/filter",
	"github.com/mdlayher/netlink":         "internal/nft",
	"github.com/gaissmai/bart":            "internal/table",
	"github.com/spf13/cobra":              "cmd",
	"github.com/spf13/pflag":              "cmd",
	"github.com/coreos/go-systemd":        "internal/daemon",
	"golang.org/x/sync":                   "internal/daemon",
}

type listed struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) (all []listed) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := arrows[room]
		if !ok {
			t.Errorf("room %s is not in the picture", room)
		}
		seen[room] = true
		for _, path := range p.Imports {
			if ours, ok := strings.CutPrefix(path, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s must not import %s", room, ours)
			}
			if third, ok := thirdParty(path); ok && !inRoom(room, third) {
				t.Errorf("%s must not import %s, which is for %q", room, path, rooms[third])
			}
		}
	}
	for room := range arrows {
		if !seen[room] {
			t.Errorf("the picture has a room %s that is not there", room)
		}
	}
}

// inRoom tells whether a module is for a room, or for one around it. What runs the
// dashboard knows the library that it is made of, and what measures may use any.
func inRoom(room, module string) bool {
	owner := rooms[module]
	return room == owner || room == "internal/e2e/bench" || owner != "" && strings.HasPrefix(room, owner+"/") || room == "cmd/meshtui" && module == "github.com/charmbracelet/bubbletea"
}

// thirdParty returns the module of an import path that is neither ours, nor the
// standard library's, nor x/sys.
func thirdParty(path string) (string, bool) {
	if strings.HasPrefix(path, module) || strings.HasPrefix(path, "golang.org/x/sys/") || !strings.Contains(strings.Split(path, "/")[0], ".") {
		return "", false
	}
	return strings.Join(strings.SplitN(path, "/", 4)[:3], "/"), true
}
