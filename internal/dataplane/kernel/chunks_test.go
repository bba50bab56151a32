package kernel

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/nstest"
)

// What is read of whole chunks at once is what a call for each node reads: where a chunk is full, where
// many numbers of it are used, and where few are, which are read one by one.
func TestChunksAtOnce(t *testing.T) {
	nstest.Require(t)
	for _, nodes := range []int{3, chunkSize + manyOfChunk - 1, chunkSize + manyOfChunk} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			p := programsOf(t, large(nodes))
			h := p.handle()
			for _, number := range []uint32{1, 2, uint32(nodes / 2), uint32(nodes - 2), uint32(nodes - 1)} {
				cpus := make([]meshCounters, ebpf.MustPossibleCPU())
				for i := range cpus {
					cpus[i].RxPackets, cpus[i].TxBytes = uint64(1+i), uint64(number)
					cpus[i].Drops[i] = uint64(number)
				}
				one := h.chunks.made[number/chunkSize].Load()
				if err := one.Update(number%chunkSize, cpus, ebpf.UpdateExist); err != nil {
					t.Fatal(err)
				}
			}
			r := p.Read()
			for name, number := range p.tables.numbers {
				single := copyOfChunks{chunks: &h.chunks} // without what is read at once
				want, err := single.traffic(number)
				if got := r.Peers[name]; number != self && (err != nil || got != want) {
					t.Errorf("%s: %+v, want %+v, %v", name, got, want, err)
				}
			}
			if total := p.Read().Totals; total.RxPackets == 0 {
				t.Errorf("nothing is counted: %+v", total)
			}
		})
	}
}

// Benchmark10000Nodes is what is read each second, by history and by the rule about silent peers: of nodes
// that send nothing, and of nodes that all do.
func Benchmark10000Nodes(b *testing.B) {
	nstest.Require(b)
	p := programsOf(b, large(10_000))
	var names []string
	for name := range p.tables.numbers {
		names = append(names, name)
	}
	for _, seen := range []uint64{0, 1} {
		cpus := make([]meshCounters, ebpf.MustPossibleCPU())
		cpus[0].Seen, cpus[0].RxPackets = seen, seen
		for _, number := range p.tables.numbers {
			one := p.handle().chunks.made[number/chunkSize].Load()
			if err := one.Update(number%chunkSize, cpus, ebpf.UpdateExist); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("Read/%d", seen), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Read()
			}
		})
		b.Run(fmt.Sprintf("HeardBy/%d", seen), func(b *testing.B) {
			for b.Loop() {
				p.HeardBy(names...)
			}
		})
	}
}
