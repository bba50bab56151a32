package main

import (
	"path/filepath"
	"slices"
	"strings"
)

// A boot is one run of a kernel.
type boot struct {
	kernel string  // beginning of the package's name
	suites []suite // that have to pass, one after another
	args   string  // for the kernel
	says   string  // what the tests' output has to show
}

// A suite is some tests of a room. BIN has the room's tests, linked, under the room's last name.
type suite struct {
	room  string
	tests []string // without the "Test" of their names
}

// kernels are beginnings of packages' names: Debian 12's and 13's.
var kernels = []string{"linux-image-6.1.", "linux-image-6.12."}

var boots = []boot{
	{
		kernel: "linux-image-6.1.",
		suites: []suite{{engineRoom, anyKernel}, {endToEnd, slices.Concat(telling, fou)}},
	},
	{kernel: "linux-image-6.1.", suites: encrypted},
	{
		kernel: "linux-image-6.1.",
		suites: []suite{{endToEnd, []string{"EngineByItself"}}},
		args:   "module_blacklist=sch_ingress",
		says:   "engine user: ",
	},
	{
		kernel: "linux-image-6.12.",
		suites: []suite{{engineRoom, slices.Concat(anyKernel, withTCX)}, {endToEnd, slices.Concat(telling, fou)}},
	},
	{kernel: "linux-image-6.12.", suites: encrypted},
	{
		kernel: "linux-image-6.12.",
		suites: []suite{{endToEnd, []string{"EngineByItself"}}},
		says:   "engine kernel",
	},
}

const (
	engineRoom = "internal/dataplane/kernel"
	endToEnd   = "internal/e2e"
)

var (
	// encrypted are those of the kernel's WireGuard, also against the helper in user space.
	encrypted = []suite{
		{"internal/wireguard", []string{"RandomStatesOfKernel"}},
		{"internal/wireguard/user", []string{"Flood", "Helpers"}},
		{"internal/seal", []string{"ServiceLoadsModule", "ThousandPeers"}},
		{endToEnd, []string{
			"AllowSealed", "BoxesBehindNAT", "ForgedSealed", "KeyRotation", "KeysOfThisHost", "LiveSwitch",
			"NoStartUndoesEncryption", "NothingLeavesBare", "RekeyLosesNothing", "SealedIPv6", "SealedLossless",
			"SealedUplinks", "SealedWayIsMeasured", "StockPeer",
		}},
	}
	// telling are tests of what kernels may do differently.
	telling = []string{
		"EnginesCountTheSame", "Lies", "Families", "IPsecPolicyHolds",
		"KernelEngineInMixedMesh", "KernelEngineOnVLAN", "KernelEngineUnderESP",
		"KernelEngineFollowsUnderlay", "KernelEngineMerges", "KernelEngineSpreads", "UDPSuperpackets",
		"ClockJumps", "ConntrackFull", "NeighbourTableFull",
	}
	// fou are those of a way of receiving that needs modules.
	fou = []string{"FOU", "FOUFamilies", "FOUTakesNoForged", "FOUFallsBack", "FOUKeepsOrderOfUDP",
		"FOULosesNothing"}
	// anyKernel are those that hold on each kernel that meshd supports. Verifiers differ between
	// kernels, and take less of a program without CAP_PERFMON, so LoadAsService is the first.
	anyKernel = []string{
		"LoadAsService", "Filters", "SentVerdicts", "PathsChangeUnderLoad", "CaptureOnUnderlay", "Merger",
		"KernelBefore", "HandsToSocketApart", "OnlyTaggedPass", "OthersAreKnown", "SentTagged",
	}
	// withTCX are those that need links of tcx (Linux 6.6), or a superpacket of UDP by a packet
	// socket (VIRTIO_NET_HDR_GSO_UDP_L4, Linux 6.2: Whole).
	withTCX = []string{"TakeOver", "Repair", "Undo", "FallBackToTCX", "FramesOfOthers", "Whole"}
)

// flag is what has the room's binary run them.
func (s suite) flag() string { return "-test.run=^Test(" + strings.Join(s.tests, "|") + ")$" }

// binary is the file with the room's tests in a folder.
func (s suite) binary(bin string) string { return filepath.Join(bin, filepath.Base(s.room)+".test") }

// chosen returns the boots of some kernels, by the beginning of their version, with some tests; empty: with
// all.
func chosen(version, tests string) (some []boot) {
	for _, b := range boots {
		if !strings.HasPrefix(strings.TrimPrefix(b.kernel, "linux-image-"), version) {
			continue
		}
		var suites []suite
		for _, s := range b.suites {
			names := slices.DeleteFunc(slices.Clone(s.tests), func(name string) bool {
				return tests != "" && !slices.Contains(strings.Split(tests, ","), name)
			})
			if len(names) > 0 {
				suites = append(suites, suite{s.room, names})
			}
		}
		if b.suites = suites; len(suites) > 0 {
			some = append(some, b)
		}
	}
	return some
}
