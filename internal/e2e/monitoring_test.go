package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// monitoring is the folder of what the package brings for Prometheus and Grafana.
const monitoring = "../../packaging/monitoring"

// requirePrometheus asks for Debian's Prometheus. It would start as a service on the machine of whoever
// runs `make deps`, so it has a target of its own.
func requirePrometheus(t *testing.T) {
	nstest.RequirePrograms(t, "run `make monitors`", "prometheus", "promtool", "curl")
}

// promtool checks the rules, runs their tests, and checks the example.
func TestPromtoolAcceptsRules(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	requirePrometheus(t)
	n := nstest.ForTest(t)
	run(t, n, "promtool", "check", "rules", filepath.Join(monitoring, "meshd.rules.yml"))
	run(t, n, "promtool", "test", "rules", filepath.Join(monitoring, "meshd.rules.test.yml"))
	run(t, n, "promtool", "check", "config", "--syntax-only", filepath.Join(monitoring, "prometheus.yml"))
}

// A scraper is a Prometheus that runs in a host of the lab.
type scraper struct {
	t    *testing.T
	host *nstest.Host
	log  *awaited
}

// query returns the series that an expression has now; the name of each stands in its labels.
func (p *scraper) query(expression string) (series []map[string]string) {
	p.t.Helper()
	out := run(p.t, p.host.Namespace, "curl", "-sS", "--max-time", "10", "--data-urlencode", "query="+expression,
		"http://127.0.0.1:9090/api/v1/query")
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %v, %s", expression, err, out)
	}
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// wait polls until an expression has series, or has none.
func (p *scraper) wait(expression string, some bool) {
	p.t.Helper()
	eventually(p.t, expression, func() bool { return (len(p.query(expression)) > 0) == some },
		func() string { return p.log.String() })
}

// newScraper starts a Prometheus with the files of the package, but for the addresses of this lab and for
// pauses, which are a second: then alerts need not be waited for.
func newScraper(t *testing.T, h *nstest.Host, targets ...string) *scraper {
	t.Helper()
	dir := t.TempDir()
	for name, edit := range map[string]func(doc string) string{
		"meshd.rules.yml": func(doc string) string {
			return regexp.MustCompile(`(?m)^( *for: ).*`).ReplaceAllString(doc, "${1}1s")
		},
		"prometheus.yml": func(doc string) string {
			doc = regexp.MustCompile(`_interval: \S+`).ReplaceAllString(doc, "_interval: 1s")
			doc = strings.ReplaceAll(doc, "/usr/share/meshd/monitoring/", "")
			return regexp.MustCompile(`(?m)^( *- )edge-1(:\d+\n).*`).ReplaceAllString(doc,
				"${1}"+strings.Join(targets, "${2}${1}")+"${2}")
		},
	} {
		doc, err := os.ReadFile(filepath.Join(monitoring, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(edit(string(doc))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &scraper{t: t, host: h, log: newAwaited("Server is ready to receive web requests")}
	cmd := h.Command("timeout", "300", "prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", "127.0.0.1:9090")
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); t.Failed() {
			t.Logf("prometheus: %v\n%s", err, p.log)
		}
	})
	select {
	case <-p.log.came:
	case <-time.After(patience):
		t.Fatalf("prometheus is not ready:\n%s", p.log)
	}
	return p
}

// Prometheus scrapes a mesh by the example of the package. Every panel of the dashboard has something to
// show, and alerts fire and end.
func TestPrometheusSeesMesh(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	requirePrometheus(t)
	doc := demoFile(t) + "[metrics]\nlisten = \":9285\"\n"
	m := newWorld(t).startAll(doc)
	p := newScraper(t, m.ControlPlane, "172.18.0.2", "172.18.0.3", "172.18.0.4")
	p.wait("count(meshd_peer_rtt_seconds) == 6", true)
	p.wait("sum(instance:meshd_peers_up:sum) == 6", true)
	p.wait(`ALERTS{alertname!~"MeshdDegraded"}`, false)

	run(t, m.PodCP, "ping", "-c", "20", "-i", "0.1", "-w", "20", "10.244.1.2")
	t.Run("dashboard", func(t *testing.T) { panelsShow(t, p) })

	t.Run("a peer that is down", func(t *testing.T) {
		const alert = `ALERTS{alertname="MeshdPeerDown", peer="worker2", alertstate="firing"}`
		m.w2.Kill()
		p.wait(alert, true)
		p.wait(`ALERTS{alertname="MeshdNotScraped", instance="172.18.0.3:9285", alertstate="firing"}`, true)
		m.w2 = m.again(m.w2)
		p.wait(alert, false)
		p.wait(`ALERTS{alertname="MeshdNotScraped"}`, false)
	})
	t.Run("a file that was rejected", func(t *testing.T) {
		const alert = `ALERTS{alertname="MeshdFileRejected", instance="172.18.0.4:9285", alertstate="firing"}`
		save(t, m.w, doc+"nonsense = 1\n")
		p.wait(alert, true)
		save(t, m.w, doc)
		p.wait(alert, false)
	})
}

// panelsShow asks Prometheus what each panel of the dashboard shows. A panel may be empty if there are none
// of its metrics here, such as those of encryption.
func panelsShow(t *testing.T, p *scraper) {
	text, err := os.ReadFile(filepath.Join(monitoring, "meshd.dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", "meshd", "$instance", ".*", "$__rate_interval", "1m")
	quiet := regexp.MustCompile(` > 0\)?$`) // a panel of what is rare
	metric := regexp.MustCompile(`\b[a-z_:]*meshd_[a-z0-9_:]+`)
	shown := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			p.t = t
			series := p.query(variables.Replace(target.Expr))
			exists := func(name string) bool { return len(p.query(name)) > 0 }
			names := metric.FindAllString(target.Expr, -1)
			switch missing := slices.ContainsFunc(names, func(name string) bool { return !exists(name) }); {
			case len(series) > 0:
				shown++
			case !missing && !quiet.MatchString(target.Expr):
				t.Errorf("the panel %q is empty: %s", panel.Title, target.Expr)
			}
		}
	}
	if shown < 20 {
		t.Errorf("only %d panels show something", shown)
	}
}
