// Package words puts what meshd knows into the sentences and values of the API. This is the one
// place where meshd says what a condition means: no code reads a meaning out of these sentences, so they
// can be bettered at any time.
package words

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/typed"
)

// sentences say what a kind of condition means. SUBJECT stands for what the condition is about, PEER
// for "peer NAME" or a group such as "all 3 peers"; its cause follows after a colon.
var sentences = map[mesh.Kind]string{
	mesh.Starting:      "nothing is forwarded yet: meshd is starting",
	mesh.WaitingForUs:  "nothing is forwarded yet: waiting for an address of a node of SUBJECT",
	mesh.HostMismatch:  "this host has changed and does not fit the plan in force any more, which stays",
	mesh.CannotApply:   "this host refuses what the file asks for",
	mesh.ReloadPending: "the new file is not in force yet, the one before stays",
	mesh.Maintenance:   "this node is in maintenance, and wants no new traffic",
	mesh.FileRejected:  "the new file is rejected, the one before stays in force",
	mesh.FileUnwatched: "the file cannot be watched: an edit takes effect only within 2 seconds",
	mesh.FileUnread:    "the file cannot be read at the moment, the one in force stays",
	mesh.FileDetached: "SUBJECT is a mount of a file that was replaced: " +
		"edits of the new file do not arrive here",
	mesh.FileElsewhere: "the file is on a file system (SUBJECT) that does not report every change: " +
		"an edit takes effect only within 30 seconds",
	mesh.LastGoodFile:  "the file is bad, so the last good one, accepted SUBJECT, is in force",
	mesh.ChangePending: "a change waits for its confirmation, and is taken back at SUBJECT",
	mesh.ChangeTakenBack: "the last change was not confirmed and is taken back: the file before it is in " +
		"force, whatever SUBJECT says",
	mesh.FileBehind:  "the file in force was applied, and SUBJECT is another one",
	mesh.StateFailed: "the file in force cannot be kept in SUBJECT: with a bad file meshd could not start",
	mesh.AddressElsewhere: "this node's address SUBJECT is not on this host: " +
		"meshd listens on all addresses, and peers accept only what comes from SUBJECT",
	mesh.AddressMissing: "this node's address SUBJECT is not on this host, so peers use the others",
	mesh.SubnetFamilies: "PEER and this node have subnets of different families: " +
		"no packet can pass between them",
	mesh.UnderlayFamilies: "PEER cannot be reached: none of its addresses is of a family that this node has",
	mesh.MTUTooLarge:      "SUBJECT is more than fits the underlay: larger packets cost an extra round trip",
	mesh.NoRoomForPods:    "no subnet of this node has room for pods: no files for containers are written",
	mesh.RouteShadowed:    "the route SUBJECT takes packets for a peer away from the mesh",
	mesh.RuleDiverts:      "the routing rule SUBJECT takes pods' packets away from the mesh",
	mesh.ReversePath:      "datagrams of peers that arrive at SUBJECT are dropped by rp_filter",
	mesh.NameUnresolved:   "the name SUBJECT of PEER has no address yet",
	mesh.NameStale:        "the name SUBJECT of PEER cannot be resolved now, and its last address stays in use",
	mesh.NameUnusable:     "the name SUBJECT of PEER stands for an address that meshd cannot use",
	mesh.SmallBuffers: "the kernel gave the SUBJECT smaller buffers than meshd asked for: " +
		"bursts may be lost",
	mesh.OffloadRefused: "the kernel or a network device refused the offload SUBJECT: " +
		"packets move one by one, which is slow",
	mesh.Unpinned:      "packets will stop while meshd is not running: programs cannot be pinned",
	mesh.ProgramMoved:  "another program dropped packets of pods: meshd's own now stands in front of it",
	mesh.Unmerged:      "TCP reception is slow: receive merging (GRO) is off",
	mesh.ForwardingOff: "this host does not forward SUBJECT: pods cannot reach other hosts",
	mesh.OutsideOff: "this host does not forward packets that arrive at SUBJECT: " +
		"pods get no answers from outside the mesh",
	mesh.ForwardingFailed: "forwarding is not turned on",
	mesh.PeerDown:         "no answer and no data from PEER",
	mesh.PeerLoss:         "probes to PEER are lost",
	mesh.PeerSilent:       "meshd does not answer, while data arrives, from PEER",
	mesh.PeerOneWay:       "packets pass in one direction only between this node and PEER",
	mesh.FileDiffers:      "this node's file differs in meaning from that of PEER",
	mesh.PathLarge:        "packets over SUBJECT bytes do not reach PEER",
	mesh.PathChecksum:     "UDP without a checksum does not reach PEER: the user engine sends to it instead",
	mesh.PathPort:         "UDP from other source ports than the mesh's does not reach PEER",
	mesh.PathDSCP:         "packets with DSCP value SUBJECT do not reach PEER",
	mesh.AddressSilent:    "PEER does not answer at SUBJECT",
	mesh.PeerDrains:       "PEER is in maintenance, and wants no new traffic",
	mesh.PeerMaintained:   "PEER is down for maintenance",
	mesh.PathForwarding:   "packets that have to be forwarded to pods are dropped at PEER",
	mesh.RulesFailed:      "the nftables rules for pods' traffic are not all in force; meshd tries again",
	mesh.LegacyRules:      "this host filters with SUBJECT, which may drop pods' packets",
	mesh.RulesUncounted:   "the counters of the masquerade rules cannot be read",
	mesh.FilesFailed:      "the files for container runtimes are not as planned; meshd tries again",
	mesh.MetricsFailed:    "metrics are not served on SUBJECT",
	mesh.ProgramsBypassed: "user space moves most of the packets SUBJECT: " +
		"meshd's programs do not get them",
	mesh.ProgramInFront: "another eBPF program sees packets before meshd's does, " +
		"and may keep them from it: SUBJECT",
	mesh.TUNShaped: "the TUN has the queueing discipline SUBJECT, which programs would bypass: " +
		"user space sends",
	mesh.PeerRefused: "this host drops what PEER sends to the mesh port",
	mesh.PeersPoliced: "the IPsec policy SUBJECT applies to packets of these peers, " +
		"so they go by user space",
	mesh.PeersRuled: "the chain SUBJECT has a rule about what meshd sends to peers, " +
		"so user space sends it",

	mesh.WireGuardMissing: "no packet can be encrypted, so none leaves: this host has no WireGuard",
	mesh.WireGuardRefused: "WireGuard is not as the file wants it, and meshd tries again: SUBJECT is refused",
	mesh.WireGuardUser:    "user space encrypts, which is slower: this kernel has no WireGuard",
	mesh.GuardMissing: "SUBJECT stays down: the rules that keep packets of peers off this host's network " +
		"are not in force",
	mesh.Shut: "nothing is forwarded: packets were encrypted before, and the last good file does not encrypt",
	mesh.ProbePortTaken: "peers are not asked through the tunnel, so their state is unknown: " +
		"this host refuses SUBJECT",
	mesh.NoHandshake: "PEER does not answer WireGuard",
	mesh.SendsClear:  "PEER still sends in the clear, and its packets are dropped",
	mesh.NeverMeets:  "PEER and this node never meet: neither has an address, and no node forwards for them",
	mesh.Roamed:      "PEER sends from SUBJECT, which is not in the file, and is answered there",
	mesh.NotPrepared: "this host is not ready for encryption, and the file lists keys",
	mesh.NotReady:    "PEER is not ready: packets to it would be lost until a handshake succeeds",
	mesh.SwitchCosts: "packets are lost until all hosts have the new file: SUBJECT",
	mesh.StandbySends: "packets are dropped, since another node carries the network that they are from: " +
		"PEER may send from SUBJECT",

	mesh.SendRefused:    "this host refuses to send to PEER",
	mesh.PeerPortClosed: "meshd seems not to run on PEER",
	mesh.PeerUnknown:    "the address of PEER seems to be unreachable",
	mesh.PeerForbidden:  "a firewall seems to stop datagrams to PEER",
	mesh.PeerLoop:       "datagrams to PEER seem to run in circles",
	mesh.NoNeighbour:    "no host on the link answers for PEER",
	mesh.DropsGrowing:   "packets are lost for the reason SUBJECT",
	mesh.UnknownSenders: "addresses that no node of the file has send to this node",
	mesh.NeighboursFull: "the neighbour table SUBJECT of the kernel is full: new hosts cannot be reached",
	mesh.PodsFiltered:   "pods cannot be reached from other nodes: the chain SUBJECT drops their packets",
	mesh.PodsLost: "pods cannot be reached from other nodes: this host loses packets to SUBJECT, " +
		"and no nftables rule drops them",
	mesh.RepairsEndless: "another program keeps changing meshd's SUBJECT, and meshd restores it: " +
		"packets may be lost in between",
}

// Sentence says what is wrong, without the remedy.
func Sentence(c mesh.Condition) string {
	text := sentences[c.Kind]
	if text == "" {
		text = string(c.Kind)
	}
	who := "peer " + c.Peer
	if c.Group != "" {
		who = c.Group
	}
	text = strings.NewReplacer("SUBJECT", c.Subject, "PEER", who).Replace(text)
	if c.Cause != "" {
		text += ": " + c.Cause
	}
	if c.Again > 0 {
		text += "; trying again in " + typed.Brief(c.Again)
	}
	return text
}

// Warning says what is wrong and what to do, for lists without a place for remedies.
func Warning(c mesh.Condition) string {
	if c.Remedy == "" {
		return Sentence(c)
	}
	return Sentence(c) + "; " + Remedy(c)
}

// Remedy says what to do about a condition. PEER in it stands for the name of the peer, so that peers with
// one trouble have one remedy, and a command can be copied as it is; about a group it stays a NODE to choose.
func Remedy(c mesh.Condition) string {
	return strings.ReplaceAll(c.Remedy, "PEER", cmp.Or(c.Peer, "NODE"))
}

// Health puts a verdict into the words of the API, with the problems as warnings once more.
func Health(v health.Verdict) (h control.Health, warnings []string) {
	h, warnings = control.Health{Level: v.Level(), Problems: []control.Problem{}}, []string{}
	for _, p := range v.Problems {
		h.Problems = append(h.Problems, control.Problem{
			Level: p.Severity.String(), Kind: string(p.Kind), Peer: p.Peer,
			Text: Sentence(p.Condition), Remedy: Remedy(p.Condition), Since: p.Since})
		warnings = append(warnings, Warning(p.Condition))
	}
	return h, warnings
}

// Problems tells of conditions that would come about.
func Problems(all []mesh.Condition) []control.Problem {
	problems := []control.Problem{}
	for _, c := range all {
		problems = append(problems, control.Problem{Level: c.Severity.String(), Kind: string(c.Kind), Peer: c.Peer,
			Text: Sentence(c), Remedy: Remedy(c)})
	}
	return problems
}

// Changes puts changes into the words and values of the API, at most most of them; -1: all.
func Changes(changes []mesh.Change, most int) (lines []string, details []control.Change) {
	lines, details = []string{}, []control.Change{}
	for i, c := range changes {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(changes)-most))
			break
		}
		lines = append(lines, c.String())
		details = append(details, control.Change{
			Op: string(c.Op), Kind: string(c.Kind), Subject: c.Subject, Field: c.Field, Old: c.Old, New: c.New})
	}
	return lines, details
}

// Spoken writes the first most of some changes on one line, and how many there are besides.
func Spoken(changes []mesh.Change, most int) string {
	lines, _ := Changes(changes, most)
	return strings.Join(lines, "; ")
}

// Reload returns the outcome of an attempt to apply a file, which began and ended at two times.
func Reload(began, at time.Time, changes []mesh.Change, err error) control.Reload {
	r := control.Reload{OK: err == nil, At: at, DurationMS: float64(time.Since(began).Microseconds()) / 1000,
		Changes: []string{}, Details: []control.Change{}}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Changes, r.Details = Changes(changes, -1)
	return r
}
