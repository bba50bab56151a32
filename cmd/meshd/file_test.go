package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"example.org/meshd/configs"
)

func TestCheckSaysNothingOfAGoodFile(t *testing.T) {
	good := write(t, string(configs.Starter))
	for _, args := range [][]string{
		{"check", good}, {"check", "-c", good}, {"-c", good, "check"}, {"--config=" + good, "check"},
	} {
		t.Run(strings.Join(args[:len(args)-1], " "), func(t *testing.T) {
			if code, out, errs := meshd(args...); code != 0 || out+errs != "" {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
		})
	}
	if code, out, _ := meshd("check", "--json", good); code != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("--json: %d, %q", code, out)
	}
}

// found is a line of `meshd check --json`.
type found struct {
	Line, Col           int
	Key, Level, Message string
}

func TestCheckListsFaults(t *testing.T) {
	bad := write(t, "[network]\ncidr = 1\nfoo = 2\n")
	code, out, errs := meshd("check", bad)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	places := []string{":1:1: error: node: ", ":2:8: error: network.cidr: ", ":3:1: error: network.foo: "}
	if code != exitNo || errs != "" || len(lines) != len(places) {
		t.Fatalf("%d, %q, %q", code, out, errs)
	}
	for i, place := range places {
		if !strings.HasPrefix(lines[i], bad+place) || len(lines[i]) == len(bad+place) {
			t.Errorf("%q is not at %q", lines[i], place)
		}
	}
	code, out, _ = meshd("check", "--json", bad)
	faults := decode[[]found](t, out)
	if code != exitNo || len(faults) != 3 {
		t.Fatalf("--json: %d, %q", code, out)
	}
	if f := faults[1]; f.Line != 2 || f.Col != 8 || f.Key != "network.cidr" || f.Level != "error" ||
		f.Message == "" {
		t.Errorf("--json: %+v", f)
	}
}

func TestCheckWarns(t *testing.T) {
	doc := strings.ReplaceAll(string(configs.Starter), "172.18.0.3", "9.9.9.9") // an address of the internet
	open := write(t, doc)
	line := 1 + strings.Count(doc[:strings.Index(doc, "9.9.9.9")], "\n")
	code, out, errs := meshd("check", open)
	if want := fmt.Sprintf("%s:%d:11: warning: node.address: ", open, line); code != 0 || errs != "" ||
		!strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	code, out, _ = meshd("check", "--json", open)
	if all := decode[[]found](t, out); code != 0 || len(all) != 1 || all[0].Level != "warning" ||
		all[0].Line != line {
		t.Errorf("--json: %d, %q", code, out)
	}
}

func TestCheckWithoutAFile(t *testing.T) {
	code, out, _ := meshd("check", "/nonexistent")
	if code != exitNo || !strings.HasPrefix(out, "/nonexistent: error: ") {
		t.Errorf("%d, %q", code, out)
	}
}

const (
	netConf = `{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}`
	nodes   = `{"kind": "List", "items": [{"kind": "Node", "metadata": {"name": "edge-1"},
		"spec": {"podCIDR": "10.244.1.0/24"},
		"status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.3"}]}},
		{"kind": "Node", "metadata": {"name": "edge-2"}, "spec": {"podCIDR": "10.244.2.0/24"},
		"status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.4"}]}}]}`
)

// A draft goes to stdout, to be redirected into a file; a complete one is valid as it stands.
func TestInitDrafts(t *testing.T) {
	for _, args := range [][]string{
		{"init", "--from-flannel", write(t, netConf), write(t, nodes)},
		{"init", "--from-kubernetes", write(t, nodes)},
	} {
		t.Run(args[1], func(t *testing.T) { draftsWhole(t, args) })
	}
}

func draftsWhole(t *testing.T, args []string) {
	code, out, errs := meshd(args...)
	if code != 0 || !strings.Contains(out, `"10.244.2.0/24"`) || !strings.Contains(out, `"172.18.0.4"`) {
		t.Fatalf("%d, %q, %q", code, out, errs)
	}
	if code, faults, _ := meshd("check", write(t, out)); code != 0 {
		t.Errorf("its own check: %d, %s", code, faults)
	}
}

// An incomplete draft is printed all the same, with its faults on stderr, and the exit code says no.
func TestInitDraftsWhatIsIncomplete(t *testing.T) {
	for name, args := range map[string][]string{
		"flannel without hosts": {"--from-flannel", write(t, netConf)},
		"a lone peer": {"--from-wg", write(t,
			"[Interface]\nAddress = 10.0.0.1/24\nPrivateKey = CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n")},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := meshd(append([]string{"init"}, args...)...)
			if code != exitNo || !strings.Contains(out, "[network]") || !strings.Contains(errs, "mesh.toml:") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			if code, _, _ := meshd("check", write(t, out)); code != exitNo {
				t.Error("its own check finds nothing")
			}
		})
	}
}

func TestInitReadsStandardInput(t *testing.T) {
	root := newRoot()
	var out strings.Builder
	root.SetIn(strings.NewReader(netConf))
	root.SetOut(&out)
	root.SetArgs([]string{"init", "--from-flannel", "-", write(t, nodes)})
	if err := root.Execute(); err != nil || !strings.Contains(out.String(), "10.244.1.0/24") {
		t.Errorf("%v, %q", err, &out)
	}
	if code, out, errs := meshd("init", "--from-wg", "/nonexistent"); code != exitNo || out != "" || errs == "" {
		t.Errorf("no file: %d, %q, %q", code, out, errs)
	}
}

// run tells what is wrong with the file before it touches the host, in the form of the log.
func TestRunWithABadFile(t *testing.T) {
	bad := write(t, "[network]\nfoo = 2\n")
	for _, check := range []string{"--check=false", "--check"} {
		t.Run(check, func(t *testing.T) {
			code, out, errs := meshd("run", check, "-c", bad)
			if code != exitConfig || out != "" || !strings.Contains(errs, bad+":2:1: error: network.foo: ") {
				t.Errorf("%d, %q, %q", code, out, errs)
			}
			code, out, errs = meshd("run", check, "--log-format", "json", "-c", bad)
			if code != exitConfig || out != "" {
				t.Errorf("json: %d, %q", code, out)
			}
			keys := map[string]bool{}
			for text := range strings.Lines(errs) {
				entry := decode[map[string]any](t, text)
				if key, ok := entry["key"].(string); ok && entry["file"] == bad && entry["level"] == "ERROR" {
					keys[key] = true
				}
			}
			if !keys["network.foo"] {
				t.Errorf("json: %s", errs)
			}
		})
	}
	// The daemon, which the service starts next, reports the faults once.
	if code, out, errs := meshd("legacy-forward", "--log-level", "info", "-c", bad); code != exitNo ||
		out+errs != "" {
		t.Errorf("legacy-forward: %d, %q, %q", code, out, errs)
	}
}

func TestRunWithoutAFile(t *testing.T) {
	if _, err := os.Stat("/nonexistent"); err == nil {
		t.Fatal("/nonexistent exists")
	}
	for _, args := range [][]string{{"run", "-c", "/nonexistent"}, {"--sysctl", "run", "-c", "/nonexistent"}} {
		if code, _, errs := meshd(args...); code != exitConfig || !strings.Contains(errs, "/nonexistent") {
			t.Errorf("%q: %d, %s", args, code, errs)
		}
	}
}
