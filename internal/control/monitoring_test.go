package control

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What people see of metrics elsewhere: their page, and the rules and the dashboard of the package. Whoever
// renames a metric or a label learns here what else to change.

const monitoring = "../../packaging/monitoring/"

// A described metric is one of descriptions, taken apart: the library tells its parts as text alone.
type described struct {
	name, help string
	labels     []string
}

func describedMetrics(t *testing.T) (all []described) {
	t.Helper()
	parts := regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)".*variableLabels: \{([^}]*)\}`)
	for _, d := range descriptions {
		m := parts.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("what is %s?", d)
		}
		all = append(all, described{m[1], m[2], strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' })})
	}
	return all
}

// row is the line of a metric on its page.
func (d described) row() string {
	var labels []string
	for _, l := range d.labels {
		labels = append(labels, "`"+l+"`")
	}
	return fmt.Sprintf("| `%s` | %s | %s |\n", d.name, strings.Join(labels, ", "), d.help)
}

// The page of the metrics has each with its labels and its meaning, as /metrics has them.
func TestMetricsAreOnThePage(t *testing.T) {
	const path, head = "../../docs/metrics.md", "| metric | labels | meaning |\n|---|---|---|\n"
	page := read(t, path)
	before, table, ok := strings.Cut(page, head)
	table, after, ends := strings.Cut(table, "\n\n")
	if !ok || !ends {
		t.Fatalf("%s has no table of metrics", path)
	}
	var want strings.Builder
	for _, d := range describedMetrics(t) {
		want.WriteString(d.row())
	}
	if table+"\n" == want.String() {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+head+want.String()+"\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs (-update rewrites it); want:\n%s", path, want.String())
}

func read(t *testing.T, path string) string {
	t.Helper()
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// A dashboard is what a test has to know of Grafana's format.
type dashboard struct {
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		Targets                  []struct{ Expr, LegendFormat string }
	}
	Templating  struct{ List []struct{ Query string } }
	Annotations struct {
		List []struct{ Expr, TitleFormat string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, monitoring+"meshd.dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions returns what stands in the dashboard and in the rules for Prometheus to work out, and texts
// that name labels.
func expressions(t *testing.T) (all []string) {
	t.Helper()
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, of := range p.Targets {
			all = append(all, of.Expr+" "+of.LegendFormat)
		}
	}
	for _, v := range d.Templating.List {
		all = append(all, v.Query)
	}
	for _, a := range d.Annotations.List {
		all = append(all, a.Expr+" "+a.TitleFormat)
	}
	for _, name := range []string{"meshd.rules.yml", "meshd.rules.test.yml"} {
		// Comments are for people.
		all = append(all, regexp.MustCompile(`(?m)^ *#.*`).ReplaceAllString(read(t, monitoring+name), ""))
	}
	return all
}

var (
	recorded = regexp.MustCompile(`\b[a-z_]+:meshd_[a-z0-9_]+:[a-z0-9_]+`)
	metric   = regexp.MustCompile(`\bmeshd_[a-z0-9_]+`)
	// Labels of a selector, behind its metric; those of by, on and group_left; and those in templates.
	selector  = regexp.MustCompile(`\b(meshd_[a-z0-9_]+)\{([^}]*)\}`)
	matcher   = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=)`)
	grouping  = regexp.MustCompile(`\b(?:by|on|group_left) \(([^)]*)\)`)
	templated = regexp.MustCompile(`\{\{ *(?:\$labels\.)?([a-z_]+) *\}\}`)
)

// ofPrometheus are labels that Prometheus gives to each series.
var ofPrometheus = []string{"job", "instance"}

// The rules and the dashboard name metrics that meshd has, by labels that they have.
func TestMonitoringNamesMetrics(t *testing.T) {
	labels, every := map[string][]string{}, slices.Clone(ofPrometheus)
	for _, d := range describedMetrics(t) {
		labels[d.name] = d.labels
		every = append(every, d.labels...)
	}
	used := map[string]bool{}
	for _, e := range expressions(t) {
		for _, s := range selector.FindAllStringSubmatch(recorded.ReplaceAllString(e, ""), -1) {
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(ofPrometheus, m[1]) && !slices.Contains(labels[s[1]], m[1]) {
					t.Errorf("%s has no label %q, which %q names", s[1], m[1], s[0])
				}
			}
		}
		for _, m := range metric.FindAllString(recorded.ReplaceAllString(e, ""), -1) {
			if used[m] = true; labels[m] == nil && !slices.ContainsFunc(describedMetrics(t), func(d described) bool {
				return d.name == m
			}) {
				t.Errorf("meshd has no metric %q", m)
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(e, -1) {
			for l := range strings.SplitSeq(g[1], ", ") {
				if !slices.Contains(every, l) {
					t.Errorf("no metric has a label %q", l)
				}
			}
		}
		for _, l := range templated.FindAllStringSubmatch(e, -1) {
			if !slices.Contains(every, l[1]) {
				t.Errorf("no metric has a label %q", l[1])
			}
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d metrics were found in the files: does the test still read them?", len(used))
	}
}

// What is recorded is used, what is used is recorded, and each alert has a test in which it fires.
func TestRulesAreWhole(t *testing.T) {
	rules, tests := read(t, monitoring+"meshd.rules.yml"), read(t, monitoring+"meshd.rules.test.yml")
	makes := map[string]bool{}
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(rules, -1) {
		makes[m[1]] = true
		if !strings.Contains(tests, "expr: "+m[1]+"\n") {
			t.Errorf("no test for %s", m[1])
		}
	}
	uses := map[string]bool{}
	for _, e := range expressions(t)[:len(expressions(t))-1] { // without the tests, which name all
		for _, name := range recorded.FindAllString(regexp.MustCompile(`record: \S+`).ReplaceAllString(e, ""), -1) {
			if uses[name] = true; !makes[name] {
				t.Errorf("no rule records %s", name)
			}
		}
	}
	for name := range makes {
		if !uses[name] {
			t.Errorf("nothing uses %s", name)
		}
	}
	alerts := regexp.MustCompile(`alert: (\S+)`).FindAllStringSubmatch(rules, -1)
	for _, a := range alerts {
		t.Run(a[1], func(t *testing.T) {
			fires := regexp.MustCompile(`alertname: ` + a[1] + `\n.*\n *exp_alerts:\n *- exp_labels`)
			if !fires.MatchString(tests) {
				t.Error("it fires in no test")
			}
			if !strings.Contains(read(t, "../../docs/metrics.md"), "`"+a[1]+"`") {
				t.Error("docs/metrics.md does not explain it")
			}
		})
	}
	if len(alerts) == 0 || len(makes) == 0 {
		t.Error("no rule was found: does the test still read them?")
	}
}

// Panels stand beside each other and say what they show.
func TestDashboardIsWhole(t *testing.T) {
	const columns = 24
	d := readDashboard(t)
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, ok := ids[p.ID]; ok {
			t.Errorf("%q and %q have one id", p.Title, other)
		}
		ids[p.ID] = p.Title
		if p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %d: %q says too little", p.ID, p.Title)
		}
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > columns {
			t.Errorf("%q is at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%q covers %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	if len(d.Panels) == 0 {
		t.Error("the dashboard is empty")
	}
}
