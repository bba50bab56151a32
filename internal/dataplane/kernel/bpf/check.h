/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Whether a frame is a datagram for this node, who sent it, and whether its inner packet may come from there.
 * Nothing is changed here, and a drop is counted.
 */
#ifndef MESH_CHECK_H
#define MESH_CHECK_H

#include "maps.h"
#include "packet.h"

/* What a datagram's outer headers say. */
struct outer {
	struct endpoint from; /* a key of senders */
	__u16 length; /* of the UDP payload, bytes */
	__u16 check;  /* of UDP */
	__u8 tos;
	__u8 header; /* bytes of IP and UDP headers */
	__u8 v6;
	__u8 why;     /* HAND_FROM_SOCKET or HAND_IN_BY_SOCKET: only the kernel, or user space, may take its
			 headers off; 0: the program may */
};

/* Whether an outer destination is a place where we listen. Nearly all datagrams are for the first one. With
 * port 0 the address alone counts. */
static __always_inline int is_own(void *data, void *end, const struct settings *s, int first, int v6, __be16 port)
{
	if (first && (!port || port == s->own.port))
		return 1;
	return own_port(s, advance(data, v6, offsetof(struct ipv6hdr, daddr), offsetof(struct iphdr, daddr)), end, v6, port) != 0;
}

/* Reads outer headers from where IP begins, of length bytes that came. What the kernel would
 * not give to a socket is left to it, to be counted where it always is. */
static __always_inline int read_outer(void *data, void *end, __u32 length, __be16 proto, const struct settings *s, struct outer *o)
{
	struct udphdr *udp;
	int first;     /* it is for the address that we listen at first */
	__u32 claimed; /* bytes of UDP, by the IP header */

	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;
		int fragment;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP)
			return NOT_OURS;
		first = same4(&ip->daddr, s->own.address) && !s->own.v6;
		if (!first && !s->more)
			return NOT_OURS;
		fragment = ip->frag_off & bpf_htons(FRAGMENT_BITS);
		/* For whichever port: that may be in another fragment, or behind options. */
		if (fragment || *(__u8 *)data != VERSION_IHL) {
			if (!is_own(data, end, s, first, 0, 0))
				return NOT_OURS;
			return fragment ? HAND_FRAGMENT : HAND_UNUSUAL;
		}
		if (!header_is_valid(ip))
			return NOT_OURS;
		claimed = bpf_ntohs(ip->tot_len) - sizeof(*ip);
		o->tos = ip->tos;
		o->header = sizeof(struct outer4);
		copy_address(o->from.address, &ip->saddr, 0);
		udp = (void *)(ip + 1);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
			return NOT_OURS;
		first = same16(&ip->daddr, s->own.address) && s->own.v6;
		if (!first && !s->more)
			return NOT_OURS;
		claimed = bpf_ntohs(ip->payload_len);
		o->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		o->header = sizeof(struct outer6);
		copy_address(o->from.address, &ip->saddr, 1);
		o->from.v6 = forgotten(1);
		o->v6 = 1;
		udp = (void *)(ip + 1);
	} else {
		return NOT_OURS;
	}
	if ((void *)(udp + 1) > end || !udp->dest || !is_own(data, end, s, first, o->v6, udp->dest) ||
	    bpf_ntohs(udp->len) > claimed || bpf_ntohs(udp->len) < sizeof(*udp) || o->header - sizeof(*udp) + claimed > length)
		return NOT_OURS;
	if (bpf_ntohs(udp->len) != claimed)
		return HAND_UNUSUAL;
	o->length = claimed - sizeof(*udp);
	o->check = udp->check;
	return ACCEPT;
}

/* Reads the header of an inner packet and finds whose it is. available is what follows. */
static __always_inline int read_inner(void *data, void *end, const struct settings *s, __u32 available, struct inner *in)
{
	__u32 *from, *to;
	__u8 version;

	if (data + 1 > end)
		return -1;
	version = *(__u8 *)data >> 4;
	if (version == 4) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end || *(__u8 *)data != VERSION_IHL || bpf_ntohs(ip->tot_len) != available || !header_is_valid(ip))
			return -1;
		in->tos = ip->tos;
		in->ttl = ip->ttl;
		in->protocol = ip->protocol;
		in->header = sizeof(*ip);
		in->to_tun = same4(&ip->daddr, s->tun4);
		from = node_of4(&ip->saddr);
		to = node_of4(&ip->daddr);
	} else if (version == 6) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end || bpf_ntohs(ip->payload_len) + sizeof(*ip) != available)
			return -1;
		in->v6 = 1;
		in->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		in->ttl = ip->hop_limit;
		in->protocol = ip->nexthdr;
		in->header = sizeof(*ip);
		in->to_tun = same16(&ip->daddr, s->tun6);
		from = node_of6(&ip->saddr);
		to = node_of6(&ip->daddr);
	} else {
		return -1;
	}
	in->length = available;
	in->source = from ? *from : NOWHERE;
	in->destination = to ? *to : NOWHERE;
	return 0;
}

/* Whether the source of an inner packet is behind a node. Most end at the first line: a shared prefix never
 * leads to a number alone. */
static __always_inline int is_from(void *data, void *end, const struct inner *in, __u32 number)
{
	return in->source == number ||
	       carries(number, in->source, advance(data, in->v6, offsetof(struct ipv6hdr, saddr), offsetof(struct iphdr, saddr)), end, in->v6);
}

/* Whether its destination is behind this node. */
static __always_inline int is_to_us(void *data, void *end, const struct inner *in)
{
	return in->destination == SELF ||
	       carries(SELF, in->destination, advance(data, in->v6, offsetof(struct ipv6hdr, daddr), offsetof(struct iphdr, daddr)), end, in->v6);
}

/* Decides about an inner packet of a sender, as inbound.accept of the user engine does. */
static __always_inline int judge(void *data, void *end, const struct settings *s, const struct outer *o, __u32 sender, struct counters *c, struct inner *in)
{
	int tos;

	/* A superpacket of a sender whose device did not cut it is one inner packet. */
	if (read_inner(data, end, s, o->length, in))
		return HAND_UNUSUAL;
	/* Probes are for the TUN, and are neither TCP nor UDP, which the host's own sockets get as pods do
	 * (`meshd speed`). User space could do nothing with a superpacket that the kernel has merged, since its
	 * checksum is one that a device is to finish. */
	if (in->to_tun && in->protocol != IPPROTO_TCP && in->protocol != IPPROTO_UDP)
		return HAND_TO_THIS_NODE;
	if (in->ttl <= 1)
		return HAND_TTL_EXPIRED;
	tos = merge_ecn(in->tos, o->tos);
	if (o->why) /* user space counts what it drops, once the kernel has verified the checksum */
		return is_from(data, end, in, sender) && is_to_us(data, end, in) && tos >= 0 ? ACCEPT : o->why;
	if (!is_from(data, end, in, sender))
		c->drops[DROP_SPOOFED_SOURCE]++;
	else if (!is_to_us(data, end, in))
		c->drops[DROP_WRONG_DESTINATION]++;
	else if (tos < 0)
		c->drops[DROP_MALFORMED]++;
	else {
		in->tos = tos;
		return ACCEPT;
	}
	return DROPPED;
}

/* The number of the node that sent a datagram, and its counters. What only the kernel or user space may take
 * in is accepted if kernel is set, and o->why says so: for user space this is the verdict. */
static __always_inline int sender_of(struct outer *o, int kernel, __u32 *sender, struct counters **c)
{
	/* The checksum of a datagram from a socket may be one that a device was to finish. It
	 * would still be said to begin where it did when the headers are gone, and nothing but
	 * the kernel verifies it. The kernel engine sends none. */
	const int unknown = o->check ? HAND_FROM_SOCKET : HAND_UNKNOWN_SENDER;
	struct sender *node = bpf_map_lookup_elem(&senders, &o->from);
	struct counters *its;

	if (!node || node->number == SELF)
		return unknown;
	*sender = forgotten(node->number);
	/* Each way returns at once. Before Linux 6.8 a program without CAP_PERFMON must not use a pointer
	 * that may be null once its test was joined with others. */
	its = counters_of(*sender);
	if (!its)
		return unknown;
	if (o->check || node->by_socket) {
		o->why = o->check ? HAND_FROM_SOCKET : HAND_IN_BY_SOCKET;
		if (!kernel) {
			its->left = bpf_ktime_get_boot_ns();
			return o->why;
		}
	}
	*c = its;
	return ACCEPT;
}

#endif
