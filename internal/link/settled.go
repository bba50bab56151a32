package link

import "golang.org/x/sys/unix"

// Settled waits until no packet is under way any more that was routed before the call: whoever routes packets
// is in an RCU read-side section until the interface has them (ip_rcv_core to dev_queue_xmit), and membarrier
// waits for all of these sections to end (synchronize_rcu in kernel/sched/membarrier.c). That takes some
// milliseconds. A kernel that refuses it, as one with nohz_full does, leaves microseconds to chance.
func Settled() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
}
