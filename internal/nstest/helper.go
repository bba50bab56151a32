package nstest

import "slices"

// WireGuardFolder returns the path, on this machine, of what is /run/wireguard for the host's processes: the
// sockets of interfaces in user space are there.
func (h *Host) WireGuardFolder() string { return h.wireguardFolder() }

func (n *Namespace) wireguardFolder() string { return "/run/" + n.Name + wireguardFolder }

// withWireGuard returns a command whose arguments are one that runs with the host's own /run/wireguard.
func (h *Host) withWireGuard() []string {
	script := `mkdir -p "$0" /run/wireguard && mount --bind "$0" /run/wireguard && exec "$@"`
	return []string{"sh", "-c", script, h.WireGuardFolder()}
}

// StartHelper starts `BINARY wireguard-user` on the host, and returns when its interface is there. It is a
// Daemon of which only the process and the log are of use: Kill, Stop, PID, State, Log, Records, WaitEvent.
// It dies with this process.
func (h *Host) StartHelper(binary string, args ...string) (*Daemon, error) {
	d := &Daemon{Host: h, Binary: binary, done: make(chan struct{}), grew: make(chan struct{})}
	line := slices.Concat(h.withWireGuard(), []string{binary, "wireguard-user"}, args)
	d.cmd = h.Command(line[0], line[1:]...)
	if err := d.start(); err != nil {
		return nil, err
	}
	if err := d.WaitEvent("wireguard_started"); err != nil {
		d.Kill()
		return nil, err
	}
	return d, nil
}

// WG runs wg(8) on the host, and returns what it printed.
func (h *Host) WG(args ...string) (string, error) { return h.RunWireGuard("wg", args...) }

// RunWireGuard is Run for a command that sees the host's interfaces in user space.
func (h *Host) RunWireGuard(name string, args ...string) (string, error) {
	line := slices.Concat(h.withWireGuard(), []string{name}, args)
	return h.Run(line[0], line[1:]...)
}
