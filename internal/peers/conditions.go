package peers

import (
	"slices"
	"time"

	"example.org/meshd/internal/mesh"
)

// rollout is how long files may differ before it counts as a fault: a new file reaches the hosts of a
// mesh one after the other.
const rollout = 5 * time.Second

// OwnFile is this node's file, with which the files of its peers are compared.
type OwnFile struct {
	Names []string  // by which a peer that uses the same file may name it
	Since time.Time // when it came into force
}

// Conditions returns what is wrong with one peer, as far as its facts tell. A peer that is not asked is
// judged by its file alone.
func (f Facts) Conditions(name string, ours OwnFile, now time.Time) (all []mesh.Condition) {
	if f.Asked {
		all = f.reach(name, f.StateAt(now), now)
	}
	news := f.FileSince // of the two files, the one that is newer
	if ours.Since.After(news) {
		news = ours.Since
	}
	if f.File != "" && !slices.Contains(ours.Names, f.File) && now.Sub(news) >= rollout {
		all = append(all, mesh.Condition{Kind: mesh.FileDiffers, Severity: mesh.Degraded, Peer: name,
			Remedy: "copy the file that is right to both hosts"})
	}
	return all
}

// Conditions tells of which peers this host drops datagrams that arrive. What it drops of those that leave
// is told by the error of sending.
func (r *Registry) Conditions() (all []mesh.Condition) {
	for _, name := range r.Refused() {
		all = append(all, mesh.Condition{Kind: mesh.PeerRefused, Severity: mesh.Degraded, Peer: name,
			Remedy: "let the mesh port in; `nft list ruleset`, `ip xfrm policy` and rp_filter show what drops it"})
	}
	return all
}

// underMaintenance tells of a peer in a state that was taken out of service on purpose. What does not work
// meanwhile is worth knowing, and no alarm.
func (f Facts) underMaintenance(name string, state State) (all []mesh.Condition) {
	one := mesh.Condition{Kind: mesh.PeerMaintained, Severity: mesh.Info, Peer: name, Cause: f.Drain.Why(),
		Remedy: "`meshd undrain` there ends it"}
	switch state {
	case Unknown:
		return nil
	case Up:
		one.Kind = mesh.PeerDrains
		all = slices.Concat(f.Recent.conditions(name), f.Loses.conditions(name), f.Path.conditions(name),
			f.spares(name))
	case Stale:
		one.Kind = mesh.PeerDrains
		all = f.Recent.conditions(name)
	}
	for i := range all {
		all[i].Severity = mesh.Info
	}
	return append(all, one)
}

// reach tells how packets fare between this node and a peer in a state.
func (f Facts) reach(name string, state State, now time.Time) (all []mesh.Condition) {
	if f.Maintained(now) {
		return f.underMaintenance(name, state)
	}
	one := mesh.Condition{Severity: mesh.Degraded, Peer: name}
	switch state {
	case Up:
		return slices.Concat(f.Recent.conditions(name), f.Loses.conditions(name), f.Path.conditions(name),
			f.spares(name))
	case Stale:
		return f.Recent.conditions(name)
	case Down:
		one.Kind, one.Severity = mesh.PeerDown, mesh.Failed
		one.Remedy = "check that its host runs, that meshd runs there, " +
			"and that both hosts' firewalls pass the mesh port"
	case Silent:
		one.Kind = mesh.PeerSilent
		one.Remedy = "check that meshd runs there, `systemctl status meshd`, and that its firewall " +
			"passes probes; on encrypted meshes these are UDP port 8286 inside the tunnel, and " +
			"`meshd key --public` there must print the public_key of PEER in the file"
	case OneWay:
		one.Kind, one.Severity = mesh.PeerOneWay, mesh.Failed
		one.Cause = "its meshd is heard, but does not answer"
		if f.NotHeard {
			one.Cause = "its meshd is heard, and does not hear this node"
		}
		one.Remedy = "look for a firewall there, or on the way, that drops UDP from this node"
	default:
		return nil
	}
	return append(all, one)
}
