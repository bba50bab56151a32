package mesh

const (
	WireGuardUser    Kind = "wireguard_user"
	NoHandshake      Kind = "no_handshake"
	WireGuardRefused Kind = "wireguard_refused"
	WireGuardMissing Kind = "wireguard_missing"
	GuardMissing     Kind = "guard_missing"
	NeverMeets       Kind = "never_meets"
	Shut             Kind = "shut"
	ProbesFailed     Kind = "probes_failed"
)
