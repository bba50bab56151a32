/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Which flows use the bandwidth. Nothing is counted unless settings.flows is set; then the daemon has put a
 * table into flowing. To count each packet costs one that comes alone 4 % of all its instructions on both
 * hosts, so of those only some are noted, at random, and stand for the others. A superpacket is many packets
 * for one look, and is always noted. The table is an LRU hash: a flow that comes to a full table takes the place of one that had no
 * packet for long, so a busy one stays, and no number of flows needs more memory.
 */
#ifndef MESH_FLOWS_H
#define MESH_FLOWS_H

#include "maps.h"
#include "packet.h"

/* What note_flow is told besides the number of the peer: the inner packet is IPv6, and comes in. */
#define FLOW_V6 0x10000U
#define FLOW_IN 0x20000U

/* The first bytes of a packet of tc, or of a frame of XDP. */
static __always_inline long load_bytes(void *ctx, const int xdp, __u32 at, void *to, const __u32 size)
{
	return xdp ? bpf_xdp_load_bytes(ctx, at, to, size) : bpf_skb_load_bytes(ctx, at, to, size);
}

/* Whether a protocol has two ports in its first four bytes. */
static __always_inline int has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Makes a key of flowing's table, word by word as struct flow, of the inner packet that begins at an offset.
 * Fragments have no ports: those of all but the first would be payload. Negative: it is not all there. */
static __always_inline int read_flow(void *ctx, const int xdp, __u32 at, __u32 who, __u64 *key)
{
	__u64 head[sizeof(struct ipv6hdr) / 8], ports = 0, from[2], to[2];
	const __u32 *words = (const void *)head;
	__u32 protocol, header;

	if (who & FLOW_V6) {
		if (load_bytes(ctx, xdp, at, head, sizeof(struct ipv6hdr)))
			return -1;
		header = sizeof(struct ipv6hdr);
		protocol = words[1] >> 16 & 0xff;
		from[0] = head[1];
		from[1] = head[2];
		to[0] = head[3];
		to[1] = head[4];
	} else {
		if (load_bytes(ctx, xdp, at, head, sizeof(struct iphdr)))
			return -1;
		header = sizeof(struct iphdr);
		protocol = words[2] >> 8 & 0xff;
		if (words[1] >> 16 & bpf_htons(FRAGMENT_BITS))
			header = 0;
		from[0] = words[3];
		to[0] = words[4];
		from[1] = to[1] = 0;
	}
	if (header && has_ports(protocol) && load_bytes(ctx, xdp, at + header, &ports, 4))
		ports = 0;
	if (who & FLOW_IN) {
		key[0] = forgotten(to[0]);
		key[1] = forgotten(to[1]);
		key[2] = forgotten(from[0]);
		key[3] = forgotten(from[1]);
		ports = (ports << 16 | ports >> 16) & 0xffffffff;
	} else {
		key[0] = forgotten(from[0]);
		key[1] = forgotten(from[1]);
		key[2] = forgotten(to[0]);
		key[3] = forgotten(to[1]);
	}
	key[4] = forgotten(ports | (__u64)protocol << 32 | (__u64)(who & FLOW_V6 ? 1 : 0) << 40 | (__u64)(who & 0xffff) << 48);
	return 0;
}

/* Counts packets of a flow. CPUs share an element, since a table for each of them would be as large. */
static __always_inline void add_flow(const __u64 *key, __u32 who, __u32 packets, __u32 bytes)
{
	const struct flow_count none = {};
	__u64 first = 0; /* a key of four bytes, written in eight: see forgotten */
	void *table = bpf_map_lookup_elem(&flowing, &first);
	struct flow_count *c;
	__u64 *counts; /* packets, and bytes */

	if (!table)
		return;
	c = bpf_map_lookup_elem(table, key);
	if (!c) {
		bpf_map_update_elem(table, key, &none, BPF_NOEXIST); /* another CPU may be faster */
		c = bpf_map_lookup_elem(table, key);
		if (!c)
			return;
	}
	counts = advance(c, !!(who & FLOW_IN), offsetof(struct flow_count, rx_packets),
			 offsetof(struct flow_count, tx_packets));
	__sync_fetch_and_add(&counts[0], packets);
	__sync_fetch_and_add(&counts[1], bytes);
}

/* Counts the inner packet at an offset for its flow. These are functions of their own, so that programs stay
 * as they are where nothing is counted, but for one test. */
static __attribute__((noinline)) int note_flow(struct __sk_buff *skb, __u32 at, __u32 who, __u32 packets, __u32 bytes)
{
	__u64 key[sizeof(struct flow) / 8];

	if (!read_flow(skb, 0, at, who, key))
		add_flow(key, who, packets, bytes);
	return 0;
}

static __attribute__((noinline)) int note_frame(struct xdp_md *ctx, __u32 at, __u32 who, __u32 packets, __u32 bytes)
{
	__u64 key[sizeof(struct flow) / 8];

	if (!read_flow(ctx, 1, at, who, key))
		add_flow(key, who, packets, bytes);
	return 0;
}

/* For how many packets one stands that is to be noted; 0: it is not. */
static __always_inline __u32 flow_weight(const struct settings *s, __u32 packets)
{
	__u32 of = s->flows;

	if (of <= 1 || packets > 1)
		return !!of;
	return bpf_get_prandom_u32() & (of - 1) ? 0 : of;
}

/* How note_flow names the peer that an inner packet comes from, or goes to. */
static __always_inline __u32 flow_of(__u32 number, const struct inner *in, __u32 direction)
{
	return (number & 0xffff) | (in->v6 ? FLOW_V6 : 0) | direction;
}

#endif
