package tui

// units says what rates count.
type units int

const (
	inBits units = iota
	inBytes
	inPackets
	unitsEnd // how many there are
)

// String is the unit as it stands in the head of a column.
func (u units) String() string { return [...]string{"b/s", "B/s", "p/s"}[u] }

// rx returns the rate of what is received in the unit.
func (u units) rx(r rate) float64 { return [...]float64{8 * r.rxBytes, r.rxBytes, r.rxPackets}[u] }

// tx returns the rate of what is sent in the unit.
func (u units) tx(r rate) float64 { return [...]float64{8 * r.txBytes, r.txBytes, r.txPackets}[u] }
