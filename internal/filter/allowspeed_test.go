package filter

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// cpu returns the time that this process has had of CPUs, in ns: other processes share them.
func cpu() (ns int64) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) == nil {
		ns = u.Utime.Nano() + u.Stime.Nano()
	}
	return ns
}

// What rules cost a packet that they allow, next to none, one and 10,000: TUNs write and drop it otherwise.
func BenchmarkAllowPackets(b *testing.B) {
	for _, test := range []struct {
		name string
		s    *AllowSettings
	}{{"none", nil}, {"some", someRules()}, {"10000", manyRules()}} {
		b.Run(test.name, func(b *testing.B) {
			n := nstest.ForTest(b)
			if err := n.Do(func() error {
				w := newWire(b, n)
				if _, err := NewAllow().Set(test.s); err != nil {
					return err
				}
				packet := judged{from: netip.MustParseAddr("10.244.2.5"), to: netip.MustParseAddr("10.244.1.5"),
					protocol: 6, port: 1005, own: 9}
				if test.name == "10000" {
					packet.from = netip.MustParseAddr("10.0.5.9")
				}
				if test.name == "some" {
					packet.port = 443
				}
				bytes := packet.bytes(false)
				before := cpu()
				defer func() { b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op") }()
				for b.Loop() {
					if _, err := w.mesh.Write(bytes); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// As many rules as a file can have come into force: what is built, sent and answered, in CPU time of this
// process, of which the kernel's part of the transaction is most. "again" is a look at them, as it follows
// each edit of the file.
func BenchmarkAllowTransaction(b *testing.B) {
	for _, again := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "again"}[again], func(b *testing.B) {
			n := nstest.ForTest(b)
			s := manyRules()
			if err := n.Do(func() error {
				a := NewAllow()
				defer func() { a.Close() }()
				if _, err := a.Set(s); err != nil {
					return err
				}
				before := cpu()
				defer func() { b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e6, "cpu-ms/op") }()
				for b.Loop() {
					if !again {
						if err := a.Close(); err != nil {
							return err
						}
						a = NewAllow()
					}
					if _, err := a.Set(s); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
