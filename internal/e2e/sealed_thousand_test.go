package e2e

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"example.org/meshd/internal/nstest"
)

// A sink is the interface of a box that sends nothing and takes everything.
type sink struct {
	over   chan struct{}
	events chan tun.Event
}

func (s *sink) File() *os.File { return nil }
func (s *sink) Read([][]byte, []int, int) (int, error) {
	<-s.over
	return 0, os.ErrClosed
}
func (s *sink) Write(packets [][]byte, _ int) (int, error) { return len(packets), nil }
func (s *sink) MTU() (int, error)                          { return 1420, nil }
func (s *sink) Name() (string, error)                      { return "sink", nil }
func (s *sink) Events() <-chan tun.Event                   { return s.events }
func (s *sink) BatchSize() int                             { return 1 }
func (s *sink) Close() error {
	close(s.over)
	close(s.events)
	return nil
}

// boxes makes nodes without an address, each of which is WireGuard alone, and returns their part of a file.
// call has them call a host of the file with a key.
func (s *sealed) boxes(n int, key, endpoint string) (doc string, call func()) {
	s.t.Helper()
	hexKey := func(b []byte) string { return fmt.Sprintf("%x", b) }
	public, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []*device.Device
	for i := range n {
		private, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			s.t.Fatal(err)
		}
		doc += fmt.Sprintf("[[node]]\nname = \"box-%d\"\nsubnets = [\"10.%d.%d.0/24\"]\npublic_key = %q\n", i,
			100+i/250, i%250, base64.StdEncoding.EncodeToString(private.PublicKey().Bytes()))
		d := device.NewDevice(&sink{make(chan struct{}), make(chan tun.Event)}, conn.NewDefaultBind(),
			device.NewLogger(device.LogLevelSilent, ""))
		s.t.Cleanup(d.Close)
		if err := d.IpcSet("private_key=" + hexKey(private.Bytes()) + "\npublic_key=" + hexKey(public) +
			"\nendpoint=" + endpoint + "\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=25\n"); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, d)
	}
	return doc, func() {
		if err := s.Worker.Do(func() error { // its sockets are in the namespace of who sets it up
			for _, d := range all {
				if err := d.Up(); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// processCost returns the memory of a process in MiB, and how long it had a CPU since its start.
func processCost(b *testing.B, d *nstest.Daemon) (rss float64, cpu time.Duration) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.PID()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the name: fields from the third on, see proc(5)
	var n []int
	for _, field := range []int{14, 15, 24} { // utime and stime in ticks of 10 ms, rss in pages
		value, err := strconv.Atoi(strings.Fields(rest)[field-3])
		if err != nil {
			b.Fatal(err)
		}
		n = append(n, value)
	}
	return float64(n[2]*os.Getpagesize()) / (1 << 20), time.Duration(n[0]+n[1]) * 10 * time.Millisecond
}

// What a hub costs with a thousand boxes that have called it, all at once, and are asked by probes.
func BenchmarkThousandBoxes(b *testing.B) {
	const count, span = 1000, 30 * time.Second
	s := newSealed(b)
	s.binary = shipped
	boxes, call := s.boxes(count, s.public[s.Worker2], "172.18.0.3:51820")
	doc := "[network]\ncidr = \"10.0.0.0/8\"\ntransport = \"wireguard\"\n" +
		"[[node]]\nname = \"hub\"\naddress = \"172.18.0.3\"\nsubnets = [\"10.244.2.0/24\"]\n" +
		"public_key = \"" + s.public[s.Worker2] + "\"\n" + boxes
	helper, d := s.helper(s.Worker2), s.run(s.Worker2, doc)
	processes := map[string]*nstest.Daemon{"helper": helper, "daemon": d}
	idle := map[string]float64{}
	for name, p := range processes {
		idle[name], _ = processCost(b, p)
	}
	for b.Loop() {
		began := time.Now()
		call()
		eventually(b, "all have called", func() bool {
			all := s.wg(s.Worker2, "show", "meshd-wg", "latest-handshakes") // the daemon is left alone
			return strings.Count(all, "\n") == count && !strings.Contains(all, "\t0\n")
		}, func() string { return "" })
		b.ReportMetric(time.Since(began).Seconds(), "s-until-all-have-called")
		before := map[string]time.Duration{}
		for name, p := range processes {
			_, before[name] = processCost(b, p)
		}
		<-time.After(span)
		for name, p := range processes {
			rss, cpu := processCost(b, p)
			b.ReportMetric(idle[name], name+"-MiB-before")
			b.ReportMetric(rss, name+"-MiB")
			b.ReportMetric(100*(cpu-before[name]).Seconds()/span.Seconds(), name+"-%CPU")
		}
	}
	if err := syscall.Kill(helper.PID(), syscall.SIGQUIT); err != nil { // it ends, and lists its goroutines
		b.Fatal(err)
	}
	if _, err := helper.Exit(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(strings.Count(helper.Log(), "\ngoroutine ")), "helper-goroutines")
}
