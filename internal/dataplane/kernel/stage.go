package kernel

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// A stage is one of the programs, by its place in the order in which they are attached. A stage
// sends packets only to stages before it, so that no packet meets a place without its program.
// Programs are detached in the opposite order.
type stage uint8

// The stages, in the order in which they are attached.
const (
	stageMerge stage = iota // the exit of the merger pair: what stageIn sends into the pair needs it
	stageDecap              // the devices where the kernel delivers: stageIn sends packets there, too
	stageIn                 // the ingress of tc of the underlay: it takes what stageXDP marks
	stageOut                // the egress of tc of the TUN
	stageXDP                // native XDP of the underlay

	numStages
)

// A policy is what follows if a program cannot be attached.
type policy uint8

const (
	required  policy = iota // the kernel engine does not work without it
	droppable               // the engine works without it, only slower: a condition tells
	fallsBack               // another stage, which is attached anyway, does its work
)

// stages describes each stage. The names are in the file names of pins, by which a meshd takes over
// what an earlier one left: they must stay. Nothing is ordered by them.
var stages = [numStages]struct {
	name     string
	policy   policy
	fallback stage // for fallsBack
	attach   ebpf.AttachType
}{
	stageMerge: {name: "gro", policy: droppable, attach: ebpf.AttachTCXIngress},
	stageDecap: {name: "decap", policy: droppable, attach: ebpf.AttachTCXIngress},
	stageIn:    {name: "in", policy: required, attach: ebpf.AttachTCXIngress},
	stageOut:   {name: "out", policy: required, attach: ebpf.AttachTCXEgress},
	stageXDP:   {name: "xdp", policy: fallsBack, fallback: stageIn, attach: ebpf.AttachXDP},
}

// String returns the stage's name, as it is in the file names of pins.
func (s stage) String() string { return stages[s].name }

// out tells whether the program is asked about packets that leave by its interface.
func (s stage) out() bool { return stages[s].attach == ebpf.AttachTCXEgress }

// attachment is a program's place at an interface.
type attachment struct {
	stage  stage
	device int // index of the interface
}

// pin returns the file name of the attachment's pin.
func (at attachment) pin() string { return fmt.Sprintf("link-%s-%d", at.stage, at.device) }

// attachmentOf returns what a pin of a name is for; ok is false if the name is none of ours.
func attachmentOf(pin string) (at attachment, ok bool) {
	words := strings.Split(pin, "-")
	if len(words) != 3 || words[0] != "link" {
		return at, false
	}
	for at.stage = range numStages {
		if at.stage.String() == words[1] {
			_, err := fmt.Sscan(words[2], &at.device)
			return at, err == nil && at.pin() == pin
		}
	}
	return attachment{}, false
}

// before compares attachments by the order in which they come.
func before(a, b attachment) int {
	return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.device, b.device))
}

// inOrder returns attachments in the order in which programs are attached; backwards it is the one
// in which they are detached.
func inOrder[V any](places map[attachment]V) []attachment {
	return slices.SortedFunc(maps.Keys(places), before)
}

// removalOrder returns the file names of a folder of pins in the order in which they may be removed:
// programs, the last stage first, then whatever else there is, such as maps. To remove the pin of a
// program is to detach it.
func removalOrder(pins []string) []string {
	programs, rest := map[attachment]bool{}, []string{}
	for _, pin := range pins {
		if at, ours := attachmentOf(pin); ours {
			programs[at] = true
		} else {
			rest = append(rest, pin)
		}
	}
	var order []string
	for _, at := range slices.Backward(inOrder(programs)) {
		order = append(order, at.pin())
	}
	return append(order, rest...)
}
