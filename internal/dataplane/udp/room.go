package udp

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
)

// maxStatistics bounds how much of a file of statistics is read, in bytes. The kernel's have some thousand.
const maxStatistics = 64 << 10

// NoRoom returns how many datagrams the kernel has dropped for want of room in a receive buffer (RcvbufErrors
// and MemErrors), at all sockets of the calling thread's network namespace. Each of them is among the Drops
// of its socket, too (__udp_queue_rcv_skb in net/ipv4/udp.c).
func NoRoom() (sum uint64, err error) {
	for path, read := range map[string]func([]byte) uint64{
		"/proc/thread-self/net/snmp": noRoom4, "/proc/thread-self/net/snmp6": noRoom6,
	} {
		b, err := readBounded(path)
		if os.IsNotExist(err) { // a kernel without IPv6
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read statistics of UDP: %w", err)
		}
		sum += read(b)
	}
	return sum, nil
}

// readBounded reads a file, at most maxStatistics of it.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStatistics))
}

// noRoom4 adds up what /proc/net/snmp says: a line of names and one of numbers for each protocol
// (snmp_seq_show_tcp_udp in net/ipv4/proc.c).
func noRoom4(b []byte) (sum uint64) {
	var names [][]byte
	for line := range bytes.Lines(b) {
		words := bytes.Fields(line)
		if len(words) == 0 || string(words[0]) != "Udp:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		for i := 1; i < min(len(words), len(names)); i++ {
			if isNoRoom(names[i]) {
				sum += number(words[i])
			}
		}
		break
	}
	return sum
}

// noRoom6 adds up what /proc/net/snmp6 says: a name and a number a line (snmp6_seq_show in net/ipv6/proc.c).
func noRoom6(b []byte) (sum uint64) {
	for line := range bytes.Lines(b) {
		words := bytes.Fields(line)
		if len(words) != 2 {
			continue
		}
		if name, udp := bytes.CutPrefix(words[0], []byte("Udp6")); udp && isNoRoom(name) {
			sum += number(words[1])
		}
	}
	return sum
}

func isNoRoom(name []byte) bool { return string(name) == "RcvbufErrors" || string(name) == "MemErrors" }

// number reads a number; what is none is 0.
func number(word []byte) uint64 {
	n, err := strconv.ParseUint(string(word), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
