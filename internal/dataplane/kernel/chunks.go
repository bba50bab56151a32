package kernel

import (
	"errors"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"example.org/meshd/internal/mesh"
)

// errFull says that a mesh is too large for the maps.
var errFull = errors.New("the kernel engine has no room for the mesh")

const (
	// chunkSize is how many nodes one map of counters is for (CHUNK in bpf/maps.h).
	chunkSize = 1024
	maxChunks = mesh.MaxNodes / chunkSize
)

// chunks are the counters of nodes: a map of maps, each of which has room for chunkSize numbers. They
// are made as numbers need them, so that three nodes do not take the memory of sixteen thousand on
// each CPU, and stay as long as the handle.
//
// provide and begin are for the owner. lookup may be called by anybody meanwhile.
type chunks struct {
	all  *ebpf.Map
	spec *ebpf.MapSpec // of one of them
	made [maxChunks]atomic.Pointer[ebpf.Map]
	used map[uint32]bool // numbers whose counters may not be zero
}

// provide makes the chunks that numbers need. Those that an earlier meshd has left are replaced: only
// CAP_SYS_ADMIN may open a map by its number. It takes some milliseconds where there is one to make,
// so it is no work for a holder of mu.
func (c *chunks) provide(numbers map[string]uint32) error {
	fresh := map[uint32]*ebpf.Map{}
	err := c.makeFor(numbers, fresh)
	descriptors := map[uint32]uint32{}
	for place, one := range fresh {
		descriptors[place] = uint32(one.FD())
	}
	if err == nil {
		// The kernel waits until no program uses what was there: once for a batch, since Linux 6.8.
		err = put(c.all, descriptors)
	}
	for place, one := range fresh {
		if err == nil {
			c.made[place].Store(one)
			continue
		}
		err = errors.Join(err, one.Close())
	}
	return err
}

// makeFor makes chunks, by their places.
func (c *chunks) makeFor(numbers map[string]uint32, fresh map[uint32]*ebpf.Map) error {
	for _, number := range numbers {
		place := number / chunkSize
		if place >= maxChunks {
			return fmt.Errorf("make counters: %w", errFull)
		}
		if fresh[place] != nil || c.made[place].Load() != nil {
			continue
		}
		one, err := ebpf.NewMap(c.spec)
		if err != nil {
			return fmt.Errorf("make counters: %w", err)
		}
		fresh[place] = one
	}
	return nil
}

// begin has counters of numbers, which provide has made room for, begin at zero.
func (c *chunks) begin(numbers iter.Seq[uint32]) error {
	for number := range numbers {
		if !c.used[number] {
			c.used[number] = true
			continue
		}
		zero := make([]meshCounters, ebpf.MustPossibleCPU())
		one := c.made[number/chunkSize].Load()
		if err := again(func() error { return one.Update(number%chunkSize, zero, ebpf.UpdateExist) }); err != nil {
			return fmt.Errorf("set counters to zero: %w", err)
		}
	}
	return nil
}

// lookup reads the counters of a number, one for each CPU.
func (c *chunks) lookup(number uint32) (cpus []meshCounters, err error) {
	one := c.made[number/chunkSize].Load()
	if one == nil {
		return nil, ebpf.ErrKeyNotExist
	}
	return cpus, one.Lookup(number%chunkSize, &cpus)
}

// close closes what was made.
func (c *chunks) close() (err error) {
	for i := range c.made {
		err = errors.Join(err, c.made[i].Load().Close())
	}
	return err
}
