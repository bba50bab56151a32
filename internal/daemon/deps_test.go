package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "example.org/meshd/"

// Each room, and what it may import of ours (docs/architecture.md has the picture). A room that is not
// listed may import nothing.
var arrows = map[string][]string{
	"configs":               {},
	"internal/text":         {},
	"internal/text/hostile": {},
	"internal/backoff":      {},
	"internal/netns":        {},
	"internal/genl":         {},
	"internal/resolve":      {},
	"internal/passing":      {},
	"internal/state":        {},
	"internal/source":       {"internal/backoff", "internal/mesh", "internal/passing"},
	"internal/lastgood":     {"internal/backoff", "internal/foreign", "internal/mesh", "internal/state"},
	"internal/config": {"internal/mesh", // limits of engines, to warn above them
		"internal/source", "internal/text", "internal/typed"},
	"internal/mesh": {},
	"internal/rate": {"internal/mesh"},
	"internal/news": {"internal/peers", "internal/probe", "internal/rate"},
	"internal/lookup": {"internal/control", "internal/link", "internal/masq", "internal/mesh",
		"internal/plan", "internal/words"},
	"internal/ping": {"internal/control", "internal/dataplane", "internal/plan", "internal/probe",
		"internal/words"},
	"internal/capture": {"internal/control", "internal/dataplane", "internal/plan"},
	"internal/speed": {"internal/control", "internal/mesh", "internal/plan", "internal/task",
		"internal/words"},
	"internal/drain": {"internal/mesh", "internal/state"},
	"internal/steer": {"internal/dataplane", "internal/mesh", "internal/news", "internal/peers",
		"internal/probe"},
	"internal/table":  {},
	"internal/probe":  {"internal/mesh"},
	"internal/peers":  {"internal/mesh"},
	"internal/health": {"internal/mesh"},
	"internal/forms":  {"internal/dataplane", "internal/mesh", "internal/peers", "internal/probe"},
	"internal/link":   {"internal/genl"},
	"internal/nft":    {},
	"internal/masq":   {"internal/nft"},
	"internal/filter": {"internal/nft"},
	"internal/rules": {"internal/backoff", "internal/filter", "internal/link", "internal/masq", "internal/mesh",
		"internal/nft", "internal/rate"},
	"internal/wireguard": {"internal/foreign", "internal/genl", "internal/mesh"},
	"internal/ask":       {"internal/dataplane", "internal/mesh", "internal/peers"},
	"internal/seal": {"internal/ask", "internal/backoff", "internal/dataplane", "internal/link", "internal/mesh",
		"internal/peers", "internal/probe", "internal/rate", "internal/wireguard"},
	"internal/device": {"internal/dataplane/tun", "internal/link", "internal/mesh", "internal/rate",
		"internal/wireguard"},
	"internal/wireguard/user": {"internal/backoff", "internal/dataplane/packet", "internal/dataplane/tun",
		"internal/device", "internal/link", "internal/rate", "internal/task", "internal/wireguard"},
	"internal/forwarding": {"internal/link", "internal/mesh", "internal/netns", "internal/rate",
		"internal/state"},
	"internal/crossing": {"internal/backoff", "internal/dataplane/packet", "internal/filter", "internal/link",
		"internal/mesh", "internal/nft", "internal/probe"},
	"internal/foreign":          {},
	"internal/managers":         {},
	"internal/container":        {"internal/foreign", "internal/mesh", "internal/rate"},
	"internal/migrate":          {},
	"internal/dataplane/packet": {},
	"internal/dataplane/virtio": {"internal/dataplane/packet"},
	"internal/dataplane/gro":    {"internal/dataplane/packet", "internal/dataplane/virtio"},
	"internal/dataplane/tun":    {"internal/dataplane/packet", "internal/dataplane/virtio"},
	"internal/dataplane/udp":    {"internal/dataplane/packet"},
	"internal/dataplane":        {"internal/dataplane/packet", "internal/mesh", "internal/peers"},
	"internal/dataplane/user": {"internal/dataplane", "internal/dataplane/gro", "internal/dataplane/packet",
		"internal/dataplane/tun", "internal/dataplane/udp", "internal/dataplane/virtio", "internal/mesh",
		"internal/peers", "internal/table"},
	"internal/dataplane/kernel": {"internal/dataplane", "internal/foreign", "internal/genl", "internal/mesh",
		"internal/netns", "internal/peers"},
	"internal/dataplane/auto": {"internal/dataplane", "internal/dataplane/kernel", "internal/dataplane/user",
		"internal/mesh", "internal/peers"},
	"internal/plan": {"internal/ask", "internal/config", "internal/container", "internal/dataplane",
		"internal/dataplane/udp",
		"internal/filter", "internal/forwarding", "internal/link", "internal/masq", "internal/mesh",
		"internal/probe", // how probes begin, which no rule is about
		"internal/rules", "internal/seal", "internal/typed", "internal/wireguard"},
	"internal/control":       {"internal/text"},
	"internal/control/words": {"internal/control"},
	"internal/page":          {"internal/control", "internal/control/words", "internal/text"},
	"internal/typed":         {},
	"internal/flows":         {"internal/control", "internal/dataplane", "internal/mesh"},
	"internal/history":       {"internal/control", "internal/mesh", "internal/probe"},
	"internal/words": {"internal/control", "internal/dataplane", "internal/health", "internal/link",
		"internal/mesh", "internal/probe", "internal/rules", "internal/seal", "internal/typed"},
	"internal/handover": {"internal/dataplane"},
	"internal/task":     {},
	"internal/survey": {"internal/backoff", "internal/config", "internal/forwarding", "internal/link",
		"internal/mesh", "internal/passing", "internal/plan", "internal/resolve", "internal/rules",
		"internal/state",
		"internal/wireguard"},
	"internal/apply": {"internal/control", "internal/foreign", "internal/mesh", "internal/source",
		"internal/state"},
	"internal/push": {"internal/control", "internal/text"},
	"internal/known": {"internal/control", "internal/dataplane", "internal/dataplane/packet", "internal/forms",
		"internal/health", "internal/mesh", "internal/news", "internal/peers", "internal/plan", "internal/probe",
		"internal/steer", "internal/words"},
	"internal/begin": {"internal/config", "internal/lastgood", "internal/link", "internal/passing",
		"internal/source",
		"internal/state"},
	"internal/daemon": {"internal/apply", "internal/backoff", "internal/begin", "internal/capture",
		"internal/config",
		"internal/container",
		"internal/control", "internal/crossing", "internal/dataplane", "internal/dataplane/auto",
		"internal/dataplane/tun", "internal/device", "internal/drain", "internal/flows",
		"internal/forwarding", "internal/handover", "internal/health", "internal/history", "internal/known",
		"internal/lastgood", "internal/link", "internal/lookup", "internal/mesh", "internal/passing",
		"internal/peers", "internal/ping", "internal/plan", "internal/rate", "internal/rules",
		"internal/seal", "internal/source", "internal/speed", "internal/survey", "internal/task",
		"internal/wireguard", "internal/words"},
	"cmd/meshd": {"configs", "internal/apply", "internal/begin", "internal/config", "internal/container",
		"internal/control",
		"internal/control/words", "internal/daemon", "internal/dataplane/auto", "internal/filter",
		"internal/foreign", "internal/forwarding", "internal/lastgood", "internal/link", "internal/managers",
		"internal/masq",
		"internal/mesh", "internal/migrate", "internal/page", "internal/plan", "internal/push", "internal/source",
		"internal/survey",
		"internal/text", "internal/typed", "internal/handover", "internal/wireguard", "internal/wireguard/user"},
	"internal/tui/cell": {"internal/text"},
	"internal/tui": {"internal/control", "internal/control/words", "internal/text", "internal/tui/cell",
		"internal/typed"},
	"cmd/meshtui": {"internal/control", "internal/page", "internal/text", "internal/tui",
		"internal/typed"},
	"internal/budget": {},
	"internal/nstest": {},
	// For tests alone.
	"internal/plan/plantest": {"internal/config", "internal/link", "internal/plan"},
	"internal/e2e":           {},
	"tools/show":             {"internal/nstest"},
	"tools/demo":             {"configs", "internal/nstest", "internal/text", "tools/show"},
	"tools/image":            {},
	"tools/install":          {},
	"tools/kernels":          {},
	// It runs in the virtual machine.
	"tools/kernels/measure": {"internal/nstest"},
	"tools/testlog":         {"internal/nstest"},
	"tools/screenshots":     {"configs", "internal/nstest", "tools/show"},
	"tools/bench": {"internal/control", "internal/dataplane/packet", "internal/dataplane/udp",
		"internal/nstest", "internal/typed"},
	"tools/soak": {"internal/control", "internal/nstest"},
}

// Each third-party module is for the rooms whose folders are the beginning of a path, one of them but
// for what two must have (x/sys and the test rooms aside).
var rooms = map[string][]string{
	// What runs the dashboard knows what it is made of.
	"github.com/charmbracelet/bubbletea": {"internal/tui", "cmd/meshtui"},
	"github.com/charmbracelet/lipgloss":  {"internal/tui/cell"},
	"github.com/charmbracelet/x":         {"internal/tui"},
	"github.com/muesli/termenv":          {"internal/tui/cell"},
	"github.com/BurntSushi/toml":         {"internal/config"},
	"go.yaml.in/yaml/v3":                 {"internal/migrate"},
	"github.com/fsnotify/fsnotify":       {"internal/source"},
	"github.com/songgao/water":           {"internal/dataplane/tun"},
	// The kernel engine has devices of its own: the pair that merges TCP, and filters of tc.
	"github.com/vishvananda/netlink": {"internal/link", "internal/dataplane/kernel", "internal/genl"},
	"github.com/safchain/ethtool":    {"internal/link", "internal/dataplane/kernel"},
	"github.com/google/nftables":     {"internal/nft"},
	// The command line adds nodes to a file, and must not leave half of one.
	"github.com/google/renameio": {"internal/container", "cmd/meshd"},
	// The soak counts what is in the maps of running daemons.
	"github.com/cilium/ebpf":                 {"internal/dataplane/kernel", "tools/soak"},
	"github.com/gopacket/gopacket":           {"internal/capture"},
	"github.com/prometheus/client_golang":    {"internal/control"},
	"github.com/coreos/go-iptables":          {"internal/filter"},
	"github.com/mdlayher/netlink":            {"internal/nft"},
	"github.com/gaissmai/bart":               {"internal/table"},
	"github.com/spf13/cobra":                 {"cmd"},
	"github.com/spf13/pflag":                 {"cmd"},
	"github.com/coreos/go-systemd":           {"internal/handover"},
	"golang.org/x/net":                       {"internal/resolve"},
	"golang.org/x/sync":                      {"internal/task"},
	"github.com/google/go-containerregistry": {"tools/image"},
	"golang.zx2c4.com/wireguard":             {"internal/wireguard"},
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

// inRoom tells whether a module is for a room, or for one around it. What measures may use any.
func inRoom(room, module string) bool {
	return room == "tools/bench" || slices.ContainsFunc(rooms[module], func(owner string) bool {
		return room == owner || strings.HasPrefix(room, owner+"/")
	})
}

// Whoever wants packets to move knows one engine, which chooses: no room above the wall may tell how
// packets move. And nothing below the plan knows the file.
func TestWalls(t *testing.T) {
	for _, wall := range []struct {
		of      string
		through []string // the rooms that may import it
	}{
		{"internal/dataplane/user", []string{"internal/dataplane/auto"}},
		{"internal/dataplane/kernel", []string{"internal/dataplane/auto"}},
		{"internal/config",
			[]string{"internal/plan", "internal/plan/plantest", "internal/begin", "internal/survey",
				"internal/daemon", "cmd/meshd"}},
	} {
		t.Run(wall.of, func(t *testing.T) {
			found := 0
			for _, p := range packages(t) {
				room := strings.TrimPrefix(p.ImportPath, module)
				if !slices.Contains(p.Imports, module+wall.of) {
					continue
				}
				found++
				if !slices.Contains(wall.through, room) {
					t.Errorf("%s imports %s", room, wall.of)
				}
			}
			if found == 0 {
				t.Errorf("no room imports %s", wall.of)
			}
		})
	}
}

// Pure rooms do no I/O: they import neither ours that do, nor what the standard library does it with.
func TestPureRooms(t *testing.T) {
	pure := []string{"internal/mesh", "internal/table", "internal/probe", "internal/peers", "internal/health",
		"internal/backoff"}
	io := []string{"os", "net", "syscall", "os/exec", "net/http", "io/fs", "log", "log/slog"}
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, room) {
			continue
		}
		for _, path := range p.Imports {
			if slices.Contains(io, path) || strings.HasPrefix(path, "golang.org/x/sys/") {
				t.Errorf("%s imports %s", room, path)
			}
		}
	}
}

// thirdParty returns the module of an import path that is neither ours, nor the
// standard library's, nor x/sys.
func thirdParty(path string) (string, bool) {
	if strings.HasPrefix(path, module) || strings.HasPrefix(path, "golang.org/x/sys/") ||
		!strings.Contains(strings.Split(path, "/")[0], ".") {
		return "", false
	}
	parts := 3
	if strings.HasPrefix(path, "golang.zx2c4.com/") { // several modules of one author, for one room
		parts = 2
	}
	return strings.Join(strings.SplitN(path, "/", parts+1)[:parts], "/"), true
}

// The table of docs/architecture.md has a reason for each module that go.mod asks for directly, and when its
// version was made.
func TestDependenciesHaveReasons(t *testing.T) {
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}",
		"all").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	if len(modules) == 0 {
		t.Fatal("no module is listed")
	}
	major := regexp.MustCompile(`/v[0-9]+$`)
	for _, path := range modules {
		t.Run(path, func(t *testing.T) {
			name := major.ReplaceAllString(strings.TrimPrefix(path, "github.com/"), "")
			row := regexp.MustCompile(`(?m)^\|[^|]*\b` + regexp.QuoteMeta(name) +
				`\b[^|]*\|[^|]+\|[^|]+\| [0-9]{4}-[0-9]{2} \|$`)
			if !row.Match(doc) {
				t.Errorf("the table has no row for %s", name)
			}
		})
	}
}
