package migrate

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

func load(t testing.TB, dir string) (files []File) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		if filepath.Base(path) == "want.toml" {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{filepath.Base(path), content})
	}
	return files
}

var sources = map[string]func([]File) (*Draft, error){
	"etcd": FromFlannel, "etcd2": FromFlannel, "etcd-lines": FromFlannel, "etcd-json": FromFlannel, "kube": FromFlannel, "wg": FromWireGuard, "wg-one": FromWireGuard,
}

// Each folder of testdata gives the file that stands beside, in whatever order the files
// are given.
func TestDrafts(t *testing.T) {
	for dir, draft := range sources {
		path := filepath.Join("testdata", dir, "want.toml")
		d, err := draft(load(t, dir))
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		if *update {
			if err := os.WriteFile(path, d.TOML(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(d.TOML()) != string(want) {
			t.Errorf("%s:\n%s", dir, d.TOML())
		}
		files := load(t, dir)
		slices.Reverse(files)
		if d, err = draft(files); err != nil || strings.Count(string(d.TOML()), "\n") != strings.Count(string(want), "\n") {
			t.Errorf("%s backwards: %v\n%s", dir, err, d.TOML())
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, test := range []struct {
		draft         func([]File) (*Draft, error)
		content, want string
	}{
		{FromFlannel, "", "neither net-conf.json"},
		{FromFlannel, "{}", "neither net-conf.json"},
		{FromFlannel, "[1]", "neither net-conf.json"},
		{FromFlannel, `{"kind":"List","items":[{"kind":"Pod"}]}`, "neither net-conf.json"},
		{FromFlannel, `{"kind":"ConfigMap","data":{}}`, "the ConfigMap has no net-conf.json"},
		{FromFlannel, `{"Network":"10.244.0.0"}`, "net-conf.json: network"},
		{FromFlannel, `{"kind":"Node","metadata":{"name":"a"},"spec":{"podCIDR":"10.1"}}`, "node a: podCIDR"},
		{FromFlannel, "apiVersion: v1\nkind: List\n", "this is YAML"},
		{FromFlannel, "/coreos.com/network/subnets/10.1-24\n{}", "key /coreos.com/network/subnets/10.1-24"},
		{FromFlannel, "/coreos.com/network/subnets/10.1.0.0-24\nnonsense", "key /coreos.com/network/subnets/10.1.0.0-24"},
		{FromWireGuard, "", "there is no [Interface]"},
		{FromWireGuard, "hello", "line 1"},
		{FromWireGuard, "[Interface]\nPrivateKey = x", "PrivateKey is no base64"},
		{FromWireGuard, "[Interface]\nPrivateKey = AAAA", "PrivateKey is not 32 bytes"},
		{FromWireGuard, "[Interface]\nAddress = here", `"here" is no address or prefix`},
		{FromWireGuard, "[Interface]\n[Peer]\nEndpoint = 192.0.2.1:1", "a [Peer] without PublicKey"},
		{FromWireGuard, "[Interface]\n[Server]\nA = b", "[server] is no section"},
	} {
		if _, err := test.draft([]File{{"the file", []byte(test.content)}}); err == nil || !strings.Contains(err.Error(), "the file: ") && !strings.Contains(err.Error(), "net-conf") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.content, err, test.want)
		}
	}
}

// What a line of a draft looks like.
var ofDraft = regexp.MustCompile(`^(#.*|\[network\]|\[container\]|\[\[node\]\]|(subnet_env|cidr|port|name|address|subnets|routes) *= [^\pC]*)?\n$`)

// Whatever they are given, drafts are drafts: nothing of the input becomes a line.
func FuzzFlannel(f *testing.F) {
	fuzz(f, FromFlannel, "etcd", "etcd2", "etcd-lines", "etcd-json", "kube")
}

func FuzzWireGuard(f *testing.F) { fuzz(f, FromWireGuard, "wg", "wg-one") }

func fuzz(f *testing.F, draft func([]File) (*Draft, error), dirs ...string) {
	for _, dir := range dirs {
		for _, file := range load(f, dir) {
			f.Add(string(file.Content))
		}
	}
	f.Fuzz(func(t *testing.T, content string) {
		d, err := draft([]File{{"fuzz", []byte(content)}})
		if err != nil {
			return
		}
		for line := range strings.Lines(string(d.TOML())) {
			if !ofDraft.MatchString(line) {
				t.Errorf("%q in %q", line, d.TOML())
			}
		}
	})
}

// Nothing secret of a file becomes part of the draft, which is for everybody to read.
func TestCommentsAreNoNames(t *testing.T) {
	const secret = "SGVsbG9TZWNyZXRLZXlNYXRlcmlhbDEyMzQ1Njc4OTA="
	d, err := FromWireGuard([]File{{"wg0.conf", []byte("[Interface]\n# old: PrivateKey = " + secret + "\nAddress = 10.0.0.1/24\nPrivateKey = CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n" +
		"# " + secret + "\n[Peer]\nPublicKey = jSD4x7v7mvPaTvUy7UTvxozmQrxdDFyx17kblsdO3wI=\nAlowedIPs = 10.0.0.2/32\n#[Peer]\n#AllowedIPs = 10.9.0.77/32\n[Peer]\nPublicKey = rosEb5bLWEHIb9i2PT1iZbIJ36DfZr2qQrep/Fl3lSM=\n")}})
	if err != nil {
		t.Fatal(err)
	}
	doc := string(d.TOML())
	if strings.Contains(strings.ToLower(doc), strings.ToLower(secret[:20])) || strings.Contains(doc, "10.9.0.77") || strings.Contains(doc, "AEA=") {
		t.Errorf("%s", doc)
	}
	if !strings.Contains(doc, `"alowedips", which is no key`) || !strings.Contains(doc, `name    = "wg0"`) {
		t.Errorf("%s", doc)
	}
}
