/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The kernel engine: the wire of flannel's udp backend, without a way through user space.
 *
 *	out        TUN's egress -> look up -> outer headers in front -> underlay
 *	in, tc     underlay's ingress -> checks -> outer headers off -> TUN's ingress
 *	in, XDP    the same checks on the driver's ring; what passes is marked in front of the
 *	           packet, merged by the kernel's GRO, and taken to the TUN by the tc program
 *
 * Whatever is not plain is left alone: it goes on to the TUN's queue or the socket, where
 * user space knows what to do, and is counted by the reason.
 *
 * Only helpers and headers of Linux 5.10 and what is said to be newer where it is used.
 */
#include "maps.h"
#include "packet.h"

/* The programs. They are one object, and so one translation unit, since they share maps and inline
 * functions: parts of this file, not headers. */
#include "in.c"
#include "out.c"

char _license[] SEC("license") = "Dual MIT/GPL";
