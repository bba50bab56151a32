package migrate

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// Inputs that cost other readers of these formats more than their size: the draft, or the refusal,
// costs memory in proportion. Time has no assertion: what is quadratic in a megabyte does not end here.
func TestHostileInput(t *testing.T) {
	const size = 1 << 20
	repeat := func(head, text, tail string) string { return head + strings.Repeat(text, size/len(text)) + tail }
	bomb := "a0: &a0 [x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%[3]d]\n", i+1, i+1, i)
	}
	const peer = "[Peer]\nPublicKey = k%d\nAllowedIPs = 10.%d.%d.0/24\n"
	var peers, pairs strings.Builder
	peers.WriteString("[Interface]\nAddress = 10.0.0.1/8\n")
	for i := range maxNodes + 1 {
		fmt.Fprintf(&peers, peer, i, i/256%256, i%256)
		fmt.Fprintf(&pairs, "k%d: 1\n", i)
	}
	for name, test := range map[string]struct {
		draft   func([]File) (*Draft, error)
		content string
		want    error // nil: there is a draft
	}{
		"aliases of YAML":   {FromFlannel, "kind: List\n" + bomb + "items: *a30\n", ErrInvalid},
		"merges of YAML":    {FromFlannel, "kind: List\nm: &m {a: 1}\nitems: [{<<: *m}]\n", ErrInvalid},
		"brackets of YAML":  {FromFlannel, repeat("a: ", "[", ""), ErrUnknown},
		"indents of YAML":   {FromFlannel, "a:\n" + indents(2000), ErrTooLarge},
		"documents of YAML": {FromFlannel, repeat("", "---\n", ""), ErrTooLarge},
		"keys of YAML":      {FromFlannel, "kind: Node\n" + pairs.String(), nil},
		"too much YAML":     {FromFlannel, strings.Repeat("a: 1\n", maxYAML/5+1), ErrTooLarge},
		"too much":          {FromFlannel, strings.Repeat(" ", MaxInput+1), ErrTooLarge},
		"brackets of JSON":  {FromFlannel, repeat("", "[", ""), ErrUnknown},
		"documents of JSON": {FromFlannel, repeat("", "{}\n", ""), ErrTooLarge},
		"lists of lists": {FromFlannel, strings.Repeat(`{"items":[`, 50) + strings.Repeat("]}", 50),
			ErrInvalid},
		"hosts": {FromFlannel, repeat("{\"kind\":\"NodeList\",\"items\":[{}", ",{}", "]}"), ErrTooLarge},
		"hosts of one name": {FromFlannel, "{\"kind\":\"NodeList\",\"items\":[{}" +
			strings.Repeat(",{\"metadata\":{\"name\":\"a\"}}", 15_000) + "]}", nil},
		"settings of kubeadm": {FromKubernetes, `{"kind":"ConfigMap","data":{"ClusterConfiguration":"` +
			strings.ReplaceAll(bomb, "\n", `\n`) + `"}}`, ErrInvalid},
		"pod subnets of one node": {FromKubernetes, `{"kind":"Node","spec":{"podCIDRs":["10.1.0.0/24"` +
			strings.Repeat(`,"10.1.0.0/24"`, size/14) + "]}}", nil},
		"a value of many lines": {FromFlannel, repeat("/subnets/10.1.0.0-24\n", "\n", "{}"), nil},
		"keys of etcd":          {FromFlannel, repeat("", "/a\n", ""), ErrUnknown},
		"peers":                 {FromWireGuard, peers.String(), ErrTooLarge},
		"prefixes of one peer": {FromWireGuard, repeat("[Interface]\n[Peer]\nPublicKey = a\nAllowedIPs = ",
			"10.0.0.1,", ""), nil},
		"keys without a meaning": {FromWireGuard, "[Interface]\n" + strings.ReplaceAll(pairs.String(), ":", "="),
			nil},
		"a line":   {FromWireGuard, repeat("[Interface]\nDNS = ", "x", ""), nil},
		"headings": {FromWireGuard, repeat("", "[Interface]\n", ""), nil},
	} {
		t.Run(name, func(t *testing.T) {
			d, spent, err := draftAndSpend(test.draft, test.content)
			if !errors.Is(err, test.want) {
				t.Errorf("%.200v, want %v", err, test.want)
			}
			if err == nil && len(d.Notes) > maxNotes+1 {
				t.Errorf("%d notes", len(d.Notes))
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			// With the race detector, values that are short take three times their size and more.
			if most := uint64(64<<20 + 400*len(test.content)); spent > most {
				t.Errorf("%d MB for %d kB", spent>>20, len(test.content)>>10)
			}
		})
	}
}

// draftAndSpend drafts from one input, and tells how many bytes that allocated.
func draftAndSpend(draft func([]File) (*Draft, error), content string) (d *Draft, spent uint64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d, err = draft([]File{{"hostile", []byte(content)}})
	runtime.ReadMemStats(&after)
	return d, after.TotalAlloc - before.TotalAlloc, err
}

// indents returns mappings inside of mappings.
func indents(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i+1) + "a:\n")
	}
	return b.String()
}
