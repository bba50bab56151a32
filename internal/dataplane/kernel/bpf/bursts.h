/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Flows of UDP whose superpackets go another way than single datagrams do: by user space, or by the kernel's
 * decapsulation. A single datagram would overtake what is on its way there, so those of the flow go the same
 * way, until nothing of the flow went there for a second. Most hosts never see such a flow: superpackets that pods send are encapsulated whole, and
 * cut by the underlay's device, in order.
 */
#ifndef MESH_BURSTS_H
#define MESH_BURSTS_H

#include "maps.h"
#include "packet.h"

/* For how long nothing of a flow went the other way once it takes the usual one again, ns: longer than
 * anything stays in a queue. */
#define BURST_FOR 1000000000ULL

/* Addresses and ports, as they follow each other behind the first bytes of a header; those of IPv4 have zeros
 * behind them. */
struct burst_flow {
	__u32 words[9];
};

/* When the last packet of a flow went another way, bpf_ktime_get_boot_ns. A flow that falls out of a
 * full map loses its order once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct burst_flow);
	__type(value, __u64);
	__uint(max_entries, 1024);
} bursts SEC(".maps");

/* One element, 0: when the last one of any flow did. Other datagrams cost one look here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} last_burst SEC(".maps");

/* Reads the flow of a packet of UDP, whose IP header begins at an offset and has no options. Negative: it
 * ends before its ports do. */
static __always_inline int read_burst_flow(struct __sk_buff *skb, __u32 at, int v6, struct burst_flow *f)
{
	if (v6)
		return bpf_skb_load_bytes(skb, at + offsetof(struct ipv6hdr, saddr), f, sizeof(*f));
	return bpf_skb_load_bytes(skb, at + offsetof(struct iphdr, saddr), f, 3 * sizeof(__u32));
}

/* Remembers the flow of a superpacket that goes another way. */
static __always_inline void note_burst(struct __sk_buff *skb, __u32 at, int v6)
{
	__u64 now = bpf_ktime_get_boot_ns(), *last;
	struct burst_flow f = {};
	__u32 key = 0;

	if (read_burst_flow(skb, at, v6, &f))
		return;
	bpf_map_update_elem(&bursts, &f, &now, BPF_ANY);
	last = bpf_map_lookup_elem(&last_burst, &key);
	if (last)
		*last = now;
}

/* Whether a time is within the last BURST_FOR. Another CPU may have noted it a moment after now. */
static __always_inline int is_lately(__u64 then, __u64 now)
{
	return then + BURST_FOR > now;
}

/* Whether a single datagram of UDP has to go the way that superpackets of its flow go. */
static __always_inline int follows_burst(struct __sk_buff *skb, __u32 at, int v6)
{
	__u32 key = 0;
	__u64 *last = bpf_map_lookup_elem(&last_burst, &key), *own, now;
	struct burst_flow f = {};

	if (!last || !*last)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (!is_lately(*last, now) || read_burst_flow(skb, at, v6, &f))
		return 0;
	own = bpf_map_lookup_elem(&bursts, &f);
	if (!own || !is_lately(*own, now))
		return 0;
	*own = *last = now; /* the next one would overtake this */
	return 1;
}

/* Whether a packet of UDP, which is a superpacket if it has a gso_size, goes another way than most: it is
 * one, or it follows one. */
static __always_inline int is_of_burst(struct __sk_buff *skb, __u32 at, int v6, __u32 gso_size)
{
	if (!gso_size)
		return follows_burst(skb, at, v6);
	note_burst(skb, at, v6);
	return 1;
}

#endif
