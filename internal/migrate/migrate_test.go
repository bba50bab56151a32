package migrate

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/config"
)

// keyA is a private key of tests.
const keyA = "CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA="

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

// sources are the folders of testdata, with the function that reads them.
var sources = map[string]func([]File) (*Draft, error){
	"etcd": FromFlannel, "etcd2": FromFlannel, "etcd-lines": FromFlannel, "etcd-json": FromFlannel,
	"kube": FromFlannel, "manifest": FromFlannel, "list": FromFlannel,
	"kubernetes": FromKubernetes, "kubeadm": FromKubernetes,
	"wg": FromWireGuard, "wg-one": FromWireGuard, "wg-names": FromWireGuard, "warrior": FromWireGuard,
}

// Each folder of testdata gives the want.toml in it.
func TestDrafts(t *testing.T) {
	for dir, draft := range sources {
		t.Run(dir, func(t *testing.T) {
			path := filepath.Join("testdata", dir, "want.toml")
			d, err := draft(load(t, dir))
			if err != nil {
				t.Fatal(err)
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
				t.Errorf("got:\n%s", d.TOML())
			}
		})
	}
}

// Line ends of Windows, a byte order mark and UTF-16, which PowerShell writes, change nothing.
func TestEncodings(t *testing.T) {
	utf16le := func(s string) string {
		wide := "\xff\xfe"
		for _, unit := range utf16.Encode([]rune(s)) {
			wide += string([]byte{byte(unit), byte(unit >> 8)})
		}
		return wide
	}
	for name, encode := range map[string]func(string) string{
		"line ends of Windows": strings.NewReplacer("\n", "\r\n").Replace,
		"a byte order mark":    func(s string) string { return "\ufeff" + s },
		"UTF-16":               utf16le,
	} {
		for dir, draft := range sources {
			t.Run(name+" in "+dir, func(t *testing.T) {
				files := load(t, dir)
				for i := range files {
					files[i].Content = []byte(encode(string(files[i].Content)))
				}
				d, err := draft(files)
				if err != nil {
					t.Fatal(err)
				}
				want, err := os.ReadFile(filepath.Join("testdata", dir, "want.toml"))
				if err != nil {
					t.Fatal(err)
				}
				if string(d.TOML()) != string(want) {
					t.Errorf("got:\n%s", d.TOML())
				}
			})
		}
	}
}

// The order of the files makes no difference to the network and to the hosts' addresses and
// prefixes; a name may come from another comment.
func TestOrderOfFiles(t *testing.T) {
	for dir, draft := range sources {
		t.Run(dir, func(t *testing.T) {
			files := load(t, dir)
			forwards, err := draft(files)
			if err != nil {
				t.Fatal(err)
			}
			slices.Reverse(files)
			backwards, err := draft(files)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range []*Draft{forwards, backwards} {
				slices.Sort(d.Notes)
				for i := range d.Nodes {
					n := &d.Nodes[i]
					n.Name = ""
					slices.SortFunc(n.Subnets, netip.Prefix.Compare)
				}
			}
			if !reflect.DeepEqual(forwards.Nodes, backwards.Nodes) || !slices.Equal(forwards.CIDR, backwards.CIDR) {
				t.Errorf("forwards %+v\nbackwards %+v", forwards, backwards)
			}
		})
	}
}

// A complete draft is a file that meshd accepts, and an incomplete one is not: somebody has
// to fill it in first.
func TestCompleteDraftsAreAccepted(t *testing.T) {
	complete := map[string]bool{"etcd": true, "etcd-json": true, "etcd-lines": false, "etcd2": true,
		"kube": false, "manifest": true, "list": true, "wg": true, "wg-one": true, "wg-names": false,
		"warrior": false, "kubernetes": false, "kubeadm": true}
	for dir, draft := range sources {
		t.Run(dir, func(t *testing.T) {
			d, err := draft(load(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse("mesh.toml", d.TOML())
			if (err == nil) != complete[dir] {
				t.Errorf("complete: %v, but %v", complete[dir], err)
			}
			if marked := strings.Contains(string(d.TOML()), "FILL IN"); marked == complete[dir] {
				t.Errorf("complete: %v, marked: %v", complete[dir], marked)
			}
		})
	}
}

// Input that is nothing known, or not valid, is an error with a kind that names the file.
func TestBadInput(t *testing.T) {
	const subnets = "/coreos.com/network/subnets/"
	for name, test := range map[string]struct {
		draft   func([]File) (*Draft, error)
		content string
		want    error
	}{
		"flannel: nothing":              {FromFlannel, "", ErrUnknown},
		"flannel: an empty object":      {FromFlannel, "{}", ErrUnknown},
		"flannel: a list":               {FromFlannel, "[1]", ErrUnknown},
		"flannel: pods":                 {FromFlannel, `{"kind":"List","items":[{"kind":"Pod"}]}`, ErrUnknown},
		"flannel: another key of etcd":  {FromFlannel, "/registry/pods/a\n{}", ErrUnknown},
		"flannel: an empty List":        {FromFlannel, "apiVersion: v1\nkind: List\n", ErrUnknown},
		"flannel: YAML of another kind": {FromFlannel, "\xef\xbb\xbf\napiVersion: v1\nkind: Pod\n", ErrUnknown},
		"flannel: broken YAML":          {FromFlannel, "kind: [\n", ErrUnknown},
		"flannel: a template":           {FromFlannel, "kind: {{ .Kind }}\n", ErrUnknown},
		"flannel: another ConfigMap":    {FromFlannel, `{"kind":"ConfigMap","data":{}}`, ErrUnknown},
		"flannel: nonsense in it": {FromFlannel,
			`{"kind":"ConfigMap","data":{"net-conf.json":"nonsense"}}`, ErrInvalid},
		"flannel: network":     {FromFlannel, `{"Network":"10.244.0.0"}`, ErrInvalid},
		"flannel: node":        {FromFlannel, `{"kind":"Node","spec":{"podCIDR":"10.1"}}`, ErrInvalid},
		"flannel: types":       {FromFlannel, `{"kind":"Node","spec":{"podCIDRs":7}}`, ErrInvalid},
		"flannel: lease's key": {FromFlannel, subnets + "10.1-24\n{}", ErrInvalid},
		"flannel: lease":       {FromFlannel, subnets + "10.1.0.0-24\nnonsense", ErrInvalid},
		"flannel: lease of v2": {FromFlannel, `{"node":{"nodes":[{"key":"/subnets/x","value":"{}"}]}}`, ErrInvalid},
		"wg: nothing":          {FromWireGuard, "", ErrInvalid},
		"wg: a word":           {FromWireGuard, "hello", ErrInvalid},
		"wg: a key outside":    {FromWireGuard, "MTU = 1400\n[Interface]\n", ErrInvalid},
		"wg: not base64":       {FromWireGuard, "[Interface]\nPrivateKey = x", ErrInvalid},
		"wg: short key":        {FromWireGuard, "[Interface]\nPrivateKey = AAAA", ErrInvalid},
		"wg: address":          {FromWireGuard, "[Interface]\nAddress = here", ErrInvalid},
		"wg: no public key":    {FromWireGuard, "[Interface]\n[Peer]\nEndpoint = 192.0.2.1:1", ErrInvalid},
		"wg: allowed IPs": {FromWireGuard, "[Interface]\n[Peer]\nPublicKey = a\nAllowedIPs = 10/8",
			ErrInvalid},
		"wg: another section": {FromWireGuard, "[Interface]\n[Server]\nA = b", ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := test.draft([]File{{"the file", []byte(test.content)}})
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v; draft %+v", err, test.want, d)
			}
		})
	}
}

// ofDraft is what a line of a draft looks like.
var ofDraft = regexp.MustCompile(`^(#.*|\[network\]|\[wireguard\]|\[container\]|\[\[node\]\]|` +
	`(subnet_env|cni_conf|cidr|port|name|address|subnets|routes|` +
	`transport|public_key|endpoint|via) *= [^\pC]*)?\n$`)

// Whatever they are given, drafts are drafts: nothing of the input becomes a line.
func FuzzFlannel(f *testing.F) {
	fuzz(f, FromFlannel, "etcd", "etcd2", "etcd-lines", "etcd-json", "kube", "list")
}

func FuzzKubernetes(f *testing.F) { fuzz(f, FromKubernetes, "kubernetes", "kubeadm") }

// YAML has a target of its own: its seeds lead elsewhere than those of JSON.
func FuzzFlannelYAML(f *testing.F) {
	f.Add("a: &a [x]\nkind: List\nitems: [*a, {<<: *a}]\n")
	fuzz(f, FromFlannel, "manifest")
}

func FuzzWireGuard(f *testing.F) { fuzz(f, FromWireGuard, "wg", "wg-one", "wg-names", "warrior") }

func fuzz(f *testing.F, draft func([]File) (*Draft, error), dirs ...string) {
	for _, dir := range dirs {
		for _, file := range load(f, dir) {
			f.Add(string(file.Content))
		}
	}
	f.Fuzz(func(t *testing.T, content string) {
		defer budget.Of(t)()
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
	d, err := FromWireGuard([]File{{"wg0.conf", []byte(`[Interface]
# old: PrivateKey = ` + secret + `
Address = 10.0.0.1/24
PrivateKey = ` + keyA + `
# ` + secret + `
[Peer]
PublicKey = jSD4x7v7mvPaTvUy7UTvxozmQrxdDFyx17kblsdO3wI=
AlowedIPs = 10.0.0.2/32
Secret = ` + secret + `
#[Peer]
#AllowedIPs = 10.9.0.77/32
[Peer]
PublicKey = rosEb5bLWEHIb9i2PT1iZbIJ36DfZr2qQrep/Fl3lSM=
`)}})
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.ToLower(string(d.TOML()))
	for _, lost := range []string{secret[:20], "10.9.0.77", keyA} {
		if strings.Contains(doc, strings.ToLower(lost)) {
			t.Errorf("%q is in\n%s", lost, doc)
		}
	}
	for _, kept := range []string{`"alowedips"`, `"secret"`, `name    = "wg0"`} {
		if !strings.Contains(doc, kept) {
			t.Errorf("%q is not in\n%s", kept, doc)
		}
	}
}

// Errors do not quote a private key, whatever is wrong with it.
func TestErrorsHideKeys(t *testing.T) {
	for name, key := range map[string]string{"not base64": "Geheim!", "too short": "R2VoZWlt"} {
		t.Run(name, func(t *testing.T) {
			_, err := FromWireGuard([]File{{"wg0.conf", []byte("[Interface]\nPrivateKey = " + key + "\n")}})
			if err == nil || strings.Contains(err.Error(), key) {
				t.Errorf("%v", err)
			}
		})
	}
}
