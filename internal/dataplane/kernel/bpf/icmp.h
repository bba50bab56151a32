/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * ICMP errors about our own datagrams. The kernel finds by the quoted ports which socket an error is
 * for: the path MTU of a route is learned only with one. A datagram that mesh_out sent from a port of
 * its flow (settings.spread) quotes a port that no socket has. Here it becomes the mesh's own port,
 * from which the socket sends:
 *
 *	outer IP | ICMP | quoted IP: us -> node | quoted UDP: flow's port -> node's port, checksum 0
 *	                                          ^ the mesh's port
 *
 * The same holds for each port that mesh_out sends from, if the kernel itself has the mesh's port: then it
 * becomes the one of meshd's sockets (settings.user_port).
 */
#ifndef MESH_ICMP_H
#define MESH_ICMP_H

#include "maps.h"
#include "packet.h"

/* The first bytes of ICMP (RFC 792) and of ICMPv6 (RFC 4443). */
struct icmp {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest; /* by the type */
};

/* Types of ICMP whose errors end at a socket (icmp_pointers in the kernel's net/ipv4/icmp.c). Those of
 * ICMPv6 are below ICMPV6_INFORMATION. */
enum {
	ICMP_UNREACHABLE = 3,
	ICMP_REDIRECT = 5,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
	ICMPV6_INFORMATION = 128,
};

/* An ICMP error as far as it is looked at: routers quote eight bytes behind the IP header at least
 * (RFC 792; RFC 4443 has as much as fits 1280). Ours has no options, so a quoted one has none. */
struct error4 {
	struct icmp icmp;
	struct iphdr ip;
	struct udphdr udp;
};

struct error6 {
	struct icmp icmp;
	struct ipv6hdr ip;
	struct udphdr udp;
};

/* Whether a quoted UDP header, to an address, is of a datagram that mesh_out sent for a flow. It may be
 * any address of a node: its path may be another one by now. Datagrams of other programs stay as
 * they are: they would have to speak to a node's own address and port, from a dynamic port, and
 * without a checksum. Where the kernel has the mesh's port, what sockets sent is quoted with that, too: a rule
 * of meshd's writes it (filter.Guard). */
static __always_inline int is_of_flow(const struct settings *s, const struct endpoint *to, const struct udphdr *udp, __be16 own)
{
	struct sender *node = bpf_map_lookup_elem(&senders, to);

	if (!node || node->number == SELF)
		return 0;
	return udp->dest == node->port && (!udp->check || (s->user_port && udp->source == own)) && (bpf_ntohs(udp->source) >= FIRST_FLOW_PORT || udp->source == own);
}

/* Writes the mesh's port over a quoted one. The packet's sum stays, and so does what a card has summed
 * up. It writes by helpers, for the reason that strip has. */
static __always_inline void quote_port(struct __sk_buff *skb, __u32 check, __u32 port, __be16 from, __be16 to)
{
	if (!bpf_skb_store_bytes(skb, port, &to, sizeof(to), 0))
		bpf_l4_csum_replace(skb, check, from, to, sizeof(to));
}

static __always_inline int is_error4(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_REDIRECT || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* The port of ours that a datagram of a flow is to quote; 0: its source is not ours. */
static __always_inline __be16 port_for(const struct settings *s, const void *source, const void *end, const int v6)
{
	if (v6 ? s->own.v6 && same16(source, s->own.address) : !s->own.v6 && same4(source, s->own.address))
		return s->own.port;
	return own_port(s, source, end, v6, 0);
}

/* An error is sent to the address that the quoted datagram came from. */
static __always_inline void mend_error4(struct __sk_buff *skb, const struct settings *s, const struct iphdr *ip, const void *end, __u32 at)
{
	struct endpoint to = {};
	struct error4 e;
	__be16 own;

	at += sizeof(struct iphdr);
	if (bpf_skb_load_bytes(skb, at, &e, sizeof(e)) || !is_error4(e.icmp.type) ||
	    *(__u8 *)&e.ip != VERSION_IHL || e.ip.protocol != IPPROTO_UDP || e.ip.frag_off & bpf_htons(FRAGMENT_BITS) || !same4(&e.ip.saddr, &ip->daddr))
		return;
	own = port_for(s, &ip->daddr, end, 0);
	copy_address(to.address, &e.ip.daddr, 0);
	if (own && is_of_flow(s, &to, &e.udp, own))
		quote_port(skb, at + offsetof(struct icmp, checksum), at + offsetof(struct error4, udp.source), e.udp.source, s->user_port ? s->user_port : own);
}

static __always_inline void mend_error6(struct __sk_buff *skb, const struct settings *s, const struct ipv6hdr *ip, const void *end, __u32 at)
{
	struct endpoint to = {};
	struct error6 e;
	__be16 own;

	at += sizeof(struct ipv6hdr);
	if (bpf_skb_load_bytes(skb, at, &e, sizeof(e)) || e.icmp.type >= ICMPV6_INFORMATION ||
	    e.ip.version != 6 || e.ip.nexthdr != IPPROTO_UDP || !same16(&e.ip.saddr, &ip->daddr))
		return;
	own = port_for(s, &ip->daddr, end, 1);
	copy_address(to.address, &e.ip.daddr, 1);
	to.v6 = forgotten(1);
	if (own && is_of_flow(s, &to, &e.udp, own))
		quote_port(skb, at + offsetof(struct icmp, checksum), at + offsetof(struct error6, udp.source), e.udp.source, s->user_port ? s->user_port : own);
}

/* Has an ICMP error about a datagram of a flow quote the mesh's port. Everything else stays as it is.
 * IP begins at an offset, and the packet is for this host. */
static __always_inline void mend_error(struct __sk_buff *skb, const struct settings *s, __be16 proto, __u32 at)
{
	void *data = (void *)(long)skb->data + at, *end = (void *)(long)skb->data_end;

	if (!s->spread && !s->user_port)
		return;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) <= end && *(__u8 *)data == VERSION_IHL && ip->protocol == IPPROTO_ICMP &&
		    !(ip->frag_off & bpf_htons(FRAGMENT_BITS)))
			mend_error4(skb, s, ip, end, at);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) <= end && ip->nexthdr == IPPROTO_ICMPV6)
			mend_error6(skb, s, ip, end, at);
	}
}

#endif
