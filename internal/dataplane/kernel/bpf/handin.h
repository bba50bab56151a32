/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * How datagrams get to meshd's sockets. Where the kernel's FOU has the mesh's port (settings.user_port is
 * set), the sockets have another one. Then the program says which socket a datagram is for, whose port stays
 * as it is, so that rules of the host see the same as before.
 */
#ifndef MESH_HANDIN_H
#define MESH_HANDIN_H

#include "check.h"
#include "maps.h"
#include "packet.h"

/* The socket of meshd's for a datagram whose IP header begins at an offset; null: there is none. */
static __always_inline struct bpf_sock *own_socket(struct __sk_buff *skb, const struct settings *s, const __u32 at, const int v6)
{
	struct bpf_sock_tuple t = {};
	__u32 size = v6 ? sizeof(t.ipv6) : sizeof(t.ipv4);

	/* The source and the destination follow each other in a header as in a tuple. */
	if (v6) {
		if (bpf_skb_load_bytes(skb, at + offsetof(struct ipv6hdr, saddr), &t.ipv6, 2 * sizeof(struct in6_addr)))
			return 0;
		t.ipv6.dport = forgotten(s->user_port);
	} else {
		if (bpf_skb_load_bytes(skb, at + offsetof(struct iphdr, saddr), &t.ipv4, 2 * sizeof(__be32)))
			return 0;
		t.ipv4.dport = forgotten(s->user_port);
	}
	return bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
}

/* Has a datagram go to meshd's socket. Another program may have bound the port while no meshd runs, and gets
 * none: only who has CAP_NET_ADMIN can set the mark. */
static __always_inline void assign(struct __sk_buff *skb, const struct settings *s, const __u32 at, const int v6)
{
	struct bpf_sock *socket = own_socket(skb, s, at, v6);

	if (!socket)
		return;
	if (socket->mark == SOCKET_MARK)
		bpf_sk_assign(skb, socket, 0);
	bpf_sk_release(socket);
}

/* The fragment header of IPv6 (RFC 8200, section 4.5). */
struct fragment6 {
	__u8 nexthdr;
	__u8 reserved;
	__be16 offset; /* in its upper 13 bits */
	__be32 id;
};

#define FRAGMENT_HEADER 44
#define FRAGMENT_OFFSET4 0x1fff
#define FRAGMENT_OFFSET6 0xfff8

/* Sends the first fragment of a datagram for the mesh's port to that of meshd's sockets, and with it the
 * whole datagram: the kernel forgets the socket of an skb when it puts fragments together. The mark is what
 * the filter of the socket lets it pass by. */
static __always_inline void mend_fragment(struct __sk_buff *skb, const struct settings *s, const __u32 link, const int v6)
{
	const __u32 at = link + (v6 ? sizeof(struct ipv6hdr) + sizeof(struct fragment6) : sizeof(struct iphdr));
	__be16 from, to = s->user_port;
	struct udphdr *udp;
	void *data, *end;
	int first;

	if (v6) { /* nearly all packets are no fragments */
		struct ipv6hdr *ip = (void *)(long)skb->data + link;

		if ((void *)(ip + 1) > (void *)(long)skb->data_end || ip->nexthdr != FRAGMENT_HEADER)
			return;
	}
	if (bpf_skb_pull_data(skb, at + sizeof(*udp) < skb->len ? at + sizeof(*udp) : skb->len))
		return;
	data = (void *)(long)skb->data + link;
	end = (void *)(long)skb->data_end;
	udp = (void *)(long)skb->data + at;
	if ((void *)(udp + 1) > end)
		return;
	if (v6) {
		struct ipv6hdr *ip = data;
		struct fragment6 *f = (void *)(ip + 1);

		if (f->nexthdr != IPPROTO_UDP || f->offset & bpf_htons(FRAGMENT_OFFSET6))
			return;
		first = same16(&ip->daddr, s->own.address) && s->own.v6;
	} else {
		struct iphdr *ip = data;

		if (*(__u8 *)data != VERSION_IHL || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(FRAGMENT_OFFSET4))
			return;
		first = same4(&ip->daddr, s->own.address) && !s->own.v6;
	}
	from = udp->dest;
	if (!from || !is_own(data, end, s, first, v6, from))
		return;
	skb->mark = SOCKET_MARK;
	if (!bpf_skb_store_bytes(skb, at + offsetof(struct udphdr, dest), &to, sizeof(to), 0))
		bpf_l4_csum_replace(skb, at + offsetof(struct udphdr, check), from, to, BPF_F_MARK_MANGLED_0 | sizeof(to));
}

/* Leaves a datagram to user space, and counts it. Its link header has a size that the compiler knows. */
static __always_inline int hand_in(struct __sk_buff *skb, const struct settings *s, const __u32 link, __be16 protocol, enum handover why)
{
	if (s->user_port) {
		if (why == HAND_FRAGMENT)
			mend_fragment(skb, s, link, 0);
		else if (protocol == bpf_htons(ETH_P_IPV6))
			assign(skb, s, link, 1);
		else
			assign(skb, s, link, 0);
	}
	return hand(why);
}

/* Counts a packet that came to a tunnel's device without a mark, if a node sent it. Where the device does not
 * tell who did (sit), none is counted. */
static __always_inline void note_stray(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct endpoint from = {};
	struct sender *node;
	__be32 address;

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		address = bpf_htonl(key.remote_ipv4);
		copy_address(from.address, &address, 0);
	} else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		copy_address(from.address, key.remote_ipv6, 1);
		from.v6 = forgotten(1);
	} else {
		return;
	}
	node = bpf_map_lookup_elem(&senders, &from);
	if (node && node->number != SELF)
		count_merging(MERGER_STRAYS, 1);
}

#endif
