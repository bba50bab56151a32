package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// dnsmasq is a real server in a namespace of its own.
type dnsmasq struct {
	*nstest.Namespace
	hosts string // the file of its names
	stop  context.CancelFunc
}

// serveDNS starts dnsmasq with some names, and returns once it answers.
func serveDNS(t *testing.T, hosts string, args ...string) *dnsmasq {
	t.Helper()
	d := &dnsmasq{Namespace: nstest.ForTest(t), hosts: filepath.Join(t.TempDir(), "hosts")}
	d.is(t, hosts)
	if err := d.IP("link set lo up"); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, d.stop = context.WithCancel(t.Context())
	t.Cleanup(d.stop)
	err := d.Background(ctx, "dnsmasq", append([]string{"--keep-in-foreground", "--no-resolv", "--no-hosts",
		"--user=root", "--pid-file=", "--conf-file=/dev/null", "--listen-address=127.0.0.1", "--bind-interfaces",
		"--local-ttl=90", "--addn-hosts=" + d.hosts, "--local=/test/"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // it tells nothing
		_, _, err := d.dialer().ask(t.Context(), "ip4", "ready.test")
		if err == nil {
			return d
		}
		if time.Now().After(until) {
			t.Fatalf("dnsmasq does not answer: %v", err)
		}
	}
}

// is writes the names that the server reads when it starts.
func (d *dnsmasq) is(t *testing.T, hosts string) {
	t.Helper()
	if err := os.WriteFile(d.hosts, []byte("192.0.2.1 ready.test\n"+hosts), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dialer leads all questions to the server.
func (d *dnsmasq) dialer() Dialer {
	return func(ctx context.Context, network, _ string) (c net.Conn, err error) {
		err = d.Do(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, "127.0.0.1:53")
			return err
		})
		return c, err
	}
}

// What dnsmasq says becomes answers: of both families, many, none, and those of a server that hangs.
func TestDNSMasq(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, "10.0.%d.%d many.test\n", i/250, i%250+1)
	}
	// Nothing listens at the upstream of the zone: dnsmasq refuses what it cannot forward.
	d := serveDNS(t,
		"10.1.0.2 two.test\n10.1.0.1 two.test\n2001:db8::1 two.test\n127.0.0.1 loop.test\n"+many.String(),
		"--server=/far.test/127.0.0.1#5300")
	news := make(chan struct{}, 100)
	r := New(Options{Log: slog.New(slog.DiscardHandler), Dial: d.dialer(),
		Changed: func() { news <- struct{}{} }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.Await(t.Context(), []string{"two.test", "many.test", "loop.test", "none.test", "a.far.test"})
	expect(t, r, "two.test", "10.1.0.1 10.1.0.2 2001:db8::1", nil)
	expect(t, r, "loop.test", "127.0.0.1", nil)
	expect(t, r, "none.test", "", ErrNotFound)
	if all := r.Answers()["many.test"]; len(all.Addrs) != MaxAddrs || all.Err != nil {
		t.Errorf("many: %+v", all)
	}
	if far := r.Answers()["a.far.test"]; far.Err == nil || errors.Is(far.Err, ErrNotFound) {
		t.Errorf("far: %+v", far)
	}
	d.stop() // nothing answers any more, and what was good stays
	drain(news)
	for !errors.Is(r.Answers()["two.test"].Err, ErrNoServer) {
		r.Doubt("two.test")
		select {
		case <-news:
		case <-time.After(10 * time.Second):
			t.Fatalf("the end of the server is not noticed: %+v", r.Answers()["two.test"])
		}
	}
	expect(t, r, "two.test", "10.1.0.1 10.1.0.2 2001:db8::1", ErrNoServer)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// drain forgets news.
func drain(news chan struct{}) {
	for len(news) > 0 {
		<-news
	}
}
