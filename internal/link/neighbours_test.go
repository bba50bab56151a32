package link

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/nstest"
)

// Both tables are there, with the limits that sysctl shows, in any network namespace.
func TestNeighbourTables(t *testing.T) {
	want := map[string]string{}
	for name, family := range map[string]string{"arp_cache": "ipv4", "ndisc_cache": "ipv6"} {
		limit, err := os.ReadFile("/proc/sys/net/" + family + "/neigh/default/gc_thresh3")
		if err != nil {
			t.Fatal(err)
		}
		want[name] = strings.TrimSpace(string(limit))
	}
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		tables, err := NeighbourTables()
		if err != nil {
			t.Error(err)
		}
		for _, table := range tables {
			if limit := strconv.Itoa(int(table.Limit)); limit != want[table.Name] {
				t.Errorf("%+v, want a limit of %s", table, want[table.Name])
			}
			delete(want, table.Name)
		}
		if len(want) > 0 {
			t.Errorf("not found: %v", want)
		}
	})
}

func FuzzNeighbourTable(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 0, 0, 0, 14, 0, ndtaName, 0, 'a', 'r', 'p', '_', 'c', 'a', 'c', 'h', 'e', 0, 0, 0})
	f.Fuzz(func(t *testing.T, message []byte) {
		defer budget.Of(t)()
		if table, ok := neighbourTable(message); ok && table.Name == "" {
			t.Errorf("%+v", table)
		}
	})
}
