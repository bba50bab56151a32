/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * A part of mesh.c, which includes it once.
 *
 * Out: from the TUN's egress to the underlay.
 */
#include "bursts.h"
#include "flows.h"
#include "maps.h"
#include "packet.h"

#define AF_INET 2
#define AF_INET6 10

/* Whether an address is behind this node. Nearly all that send are in its first subnet, in
 * which no other node has a prefix. */
static __always_inline int is_own4(const void *address, const void *end, const struct settings *s)
{
	__u32 *found;

	if ((*(const __u32 *)address & *(const __u32 *)s->mask4) == *(const __u32 *)s->home4)
		return 1;
	found = node_of4(address);
	return found && (*found == SELF || carries(SELF, *found, address, end, 0));
}

static __always_inline int is_own6(const void *address, const void *end, const struct settings *s)
{
	const __u32 *a = address, *home = (const void *)s->home6, *mask = (const void *)s->mask6;
	__u32 *found;

	if ((a[0] & mask[0]) == home[0] && (a[1] & mask[1]) == home[1] && (a[2] & mask[2]) == home[2] && (a[3] & mask[3]) == home[3])
		return 1;
	found = node_of6(address);
	return found && (*found == SELF || carries(SELF, *found, address, end, 1));
}

/* Whether IPv6 packets to an address stay on the link: the kernel itself sends some there,
 * from addresses of the link, and user space does not count them. */
static __always_inline int is_for_link(const struct in6_addr *to)
{
	return to->s6_addr[0] == 0xff && (to->s6_addr[1] & 0xf) == 2;
}

/* Reads the header of what pods send, and finds whom it is for, as outbound.route of the user
 * engine does: a foreign source first, since nothing is ever answered to it. */
static __always_inline int read_sent(struct __sk_buff *skb, const struct settings *s, struct inner *in)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 *to;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end || *(__u8 *)data != VERSION_IHL ||
		    (!skb->gso_size && bpf_ntohs(ip->tot_len) != skb->len))
			return HAND_UNUSUAL;
		in->tos = ip->tos;
		in->ttl = ip->ttl;
		in->protocol = ip->frag_off & bpf_htons(FRAGMENT_BITS) ? 0 : ip->protocol;
		in->header = sizeof(*ip);
		if (!is_own4(&ip->saddr, end, s))
			return HAND_FOREIGN_SOURCE;
		to = node_of4(&ip->daddr);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end || ip->version != 6 ||
		    (!skb->gso_size && bpf_ntohs(ip->payload_len) + sizeof(*ip) != skb->len))
			return HAND_UNUSUAL;
		in->v6 = 1;
		in->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		in->ttl = ip->hop_limit;
		in->protocol = ip->nexthdr;
		in->header = sizeof(*ip);
		if (!is_own6(&ip->saddr, end, s))
			return is_for_link(&ip->daddr) ? HAND_NO_ROUTE : HAND_FOREIGN_SOURCE;
		to = node_of6(&ip->daddr);
	} else {
		return HAND_UNUSUAL;
	}
	if (!to || NUMBER_OF(*to) == SELF)
		return HAND_NO_ROUTE;
	if (in->ttl <= 1)
		return HAND_TTL_EXPIRED;
	in->destination = NUMBER_OF(*to);
	return ACCEPT;
}

/* The outer source port. Receivers spread datagrams over their queues and CPUs by it. It is
 * one of the dynamic ports (RFC 6335, section 6), the same as long as the flow's hash is, which
 * a sender of TCP changes to try another path. */
static __always_inline __be16 source_port(struct __sk_buff *skb, const struct settings *s, const struct path *path)
{
	if (!s->spread)
		return path->from_port;
	return bpf_htons(FIRST_FLOW_PORT | (bpf_get_hash_recalc(skb) & 0x3fff));
}

/* Finds the underlay's interface for a datagram of a size, from a port. The kernel is not asked whether
 * the size fits the path: what it knows of that, anybody may have told it by ICMP. Only the interface's
 * own limit counts (Linux 5.12 tells it). */
static __always_inline int find_way(struct __sk_buff *skb, const struct path *path, __be16 port, __u32 size, __u32 *device)
{
	struct bpf_fib_lookup way = {};
	long err;

	way.family = forgotten(path->v6 ? AF_INET6 : AF_INET);
	way.l4_protocol = IPPROTO_UDP;
	way.sport = port;
	way.dport = path->port;
	way.ifindex = skb->ifindex;
	copy_address(way.ipv6_src, path->from, path->v6); /* an IPv4 address stands in the same place */
	copy_address(way.ipv6_dst, path->to, path->v6);
	err = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED || (err == BPF_FIB_LKUP_RET_SUCCESS && way.mtu_result && size > way.mtu_result))
		return HAND_TOO_BIG;
	if ((err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH) || way.ifindex == skb->ifindex)
		return HAND_NO_UNDERLAY_ROUTE;
	*device = way.ifindex;
	return ACCEPT;
}

static __always_inline void put_outer4(struct outer4 *o, const struct path *path, __u8 tos, __u32 length)
{
	__u16 *words = (void *)o;
	__u32 sum = 0;

	__builtin_memset(&o->ip, 0, sizeof(o->ip));
	o->ip.version = 4;
	o->ip.ihl = 5;
	o->ip.tos = tos;
	o->ip.tot_len = bpf_htons(length + sizeof(*o));
	o->ip.frag_off = bpf_htons(DONT_FRAGMENT);
	o->ip.ttl = HOPS;
	o->ip.protocol = IPPROTO_UDP;
	__builtin_memcpy(&o->ip.saddr, path->from, 4);
	__builtin_memcpy(&o->ip.daddr, path->to, 4);
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	o->ip.check = ~fold(sum);
}

static __always_inline void put_outer6(struct outer6 *o, const struct path *path, __u8 tos, __u32 length)
{
	__builtin_memset(&o->ip, 0, sizeof(o->ip));
	o->ip.version = 6;
	o->ip.priority = tos >> 4;
	o->ip.flow_lbl[0] = tos << 4;
	o->ip.payload_len = bpf_htons(length + sizeof(struct udphdr));
	o->ip.nexthdr = IPPROTO_UDP;
	o->ip.hop_limit = HOPS;
	__builtin_memcpy(&o->ip.saddr, path->from, 16);
	__builtin_memcpy(&o->ip.daddr, path->to, 16);
}

/* Writes outer headers in front of an inner packet of a length; there is room for them.
 * Negative: they are not all in reach. */
static __always_inline int put_outer(struct __sk_buff *skb, const struct path *path, const struct inner *in, __be16 port, __u32 length)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;

	if (path->v6) {
		struct outer6 *o = data + sizeof(*eth);

		if ((void *)(o + 1) > end)
			return -1;
		put_outer6(o, path, in->tos, length);
		eth->h_proto = bpf_htons(ETH_P_IPV6);
	} else {
		struct outer4 *o = data + sizeof(*eth);

		if ((void *)(o + 1) > end)
			return -1;
		put_outer4(o, path, in->tos, length);
		eth->h_proto = bpf_htons(ETH_P_IP);
	}
	udp = advance(data, path->v6, sizeof(*eth) + sizeof(struct ipv6hdr), sizeof(*eth) + sizeof(struct iphdr));
	if ((void *)(udp + 1) > end)
		return -1;
	udp->source = port;
	udp->dest = path->port;
	udp->len = bpf_htons(length + sizeof(*udp));
	udp->check = 0; /* over IPv6, too (RFC 6935): meshd's sockets take that */
	return rewrite(behind_outer(data, sizeof(*eth), path->v6), end, in);
}

/* Notes the DSCP value of a packet that leaves. Nearly every value was seen before, and then nothing
 * is written. A bit that another CPU overwrites is set again by the next packet. */
static __always_inline void note_mark(__u8 tos)
{
	__u32 key = 0;
	__u64 bit = 1ULL << (tos >> 2), *seen = bpf_map_lookup_elem(&marks, &key);

	if (seen && !(*seen & bit))
		*seen |= bit;
}

#define GROW (BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO)

/* Whether a packet is larger than its path. What probes have found counts more than what the interfaces
 * let through, which is the same for all nodes, less the headers of the path. */
static __always_inline int is_too_big(const struct settings *s, __u32 known, __u32 size, __u32 overhead)
{
	return known ? size > known : size > s->mtu || size + overhead > s->outer;
}

/* Whether a copy is the path of a node. Since Linux 6.1 the kernel may use the memory of an element that was
 * just replaced for another one at once, while a program still looks at it: a packet would go to
 * another node, or get half a header of each. */
static __always_inline int is_whole(const struct path *path, __u32 number)
{
	const __u32 *words = (const void *)path;
	__u32 sum = number;

#pragma unroll
	for (int i = 0; i < (int)(offsetof(struct path, sum) / sizeof(*words)); i++)
		sum += words[i];
	return sum == path->sum;
}

/* Leaves a packet to user space for its size, or that of its superpacket. What follows of its flow may be
 * smaller. */
static __always_inline int hand_large(struct __sk_buff *skb, const struct inner *in, enum handover why)
{
	if (skb->gso_size && in->protocol == IPPROTO_UDP)
		note_burst(skb, 0, in->v6);
	return hand(why);
}

/* Sends what a pod has sent; one is the size of a packet of it. */
static __always_inline int send(struct __sk_buff *skb, const struct settings *s, const struct inner *in, __u32 one)
{
	__u32 to = in->destination, length = skb->len, overhead, device = 0;
	struct node *node = bpf_map_lookup_elem(&nodes, &to);
	struct counters *c = counters_of(to);
	struct path path;
	struct amount a;
	__u32 weight;
	__be16 port;
	int why;
	long err;

	if (!node || !c)
		return hand(HAND_NO_ROUTE);
	path = node->path;
	if (!is_whole(&path, to))
		return hand(HAND_UNUSUAL);
	if (!path.port)
		return hand(HAND_NO_ADDRESS);
	overhead = path.v6 ? sizeof(struct outer6) : sizeof(struct outer4);
	if (length + overhead > 0xffff) /* a superpacket that no outer header has room for */
		return hand_large(skb, in, HAND_UNUSUAL);
	if (path.out_by_user)
		return hand(HAND_OUT_BY_USER);
	if (is_too_big(s, path.mtu, one, overhead))
		return hand_large(skb, in, HAND_TOO_BIG);
	/* An inner checksum may be one that a device is to finish, and between hosts that share
	 * a machine there is none: flannel's kernel would drop the packet. */
	if (!path.finishes)
		return hand(HAND_PLAIN_PEER);
	port = source_port(skb, s, &path);
	why = find_way(skb, &path, port, one + overhead, &device);
	if (why != ACCEPT)
		return hand(why);
	if (path.v6)
		err = bpf_skb_adjust_room(skb, sizeof(struct outer6), BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	else
		err = bpf_skb_adjust_room(skb, sizeof(struct outer4), BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (err)
		return hand_large(skb, in, HAND_UNUSUAL); /* nothing was changed yet */
	/* From here on it is ours: what fails is lost. redirect_neigh wants a MAC header, and a
	 * TUN has none. */
	if (bpf_skb_change_head(skb, sizeof(struct ethhdr), 0) ||
	    bpf_skb_pull_data(skb, sizeof(struct ethhdr) + overhead + in->header) || put_outer(skb, &path, in, port, length)) {
		c->drops[DROP_SEND_ERROR]++;
		return TC_ACT_SHOT;
	}
	a = amount_of(skb->gso_size, length, one);
	c->tx_packets += a.packets;
	c->tx_bytes += a.bytes;
	note_mark(in->tos);
	weight = flow_weight(s, a.packets);
	if (weight)
		note_flow(skb, sizeof(struct ethhdr) + overhead, flow_of(to, in, 0), weight * a.packets, weight * a.bytes);
	return bpf_redirect_neigh(device, 0, 0, 0);
}

SEC("tc")
int mesh_out(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct inner in = {};
	int why;
	__u32 one;

	if (!s)
		return LEAVE;
	if (skb->vlan_present) /* another program's doing; the datagram would leave with the tag */
		return hand(HAND_UNUSUAL);
	if (s->watched)
		return hand(HAND_CAPTURE);
	if (s->shaped)
		return hand(HAND_OUT_BY_USER);
	bpf_skb_pull_data(skb, skb->len < MOST_HEADERS ? skb->len : MOST_HEADERS);
	why = read_sent(skb, s, &in);
	if (why != ACCEPT)
		return hand(why);
	one = skb->len;
	if (skb->gso_size)
		one = any_segment_size((void *)(long)skb->data, (void *)(long)skb->data_end, &in, skb->gso_size);
	else if (in.protocol == IPPROTO_UDP && follows_burst(skb, 0, in.v6))
		one = 0;
	if (!one)
		return hand(HAND_UNUSUAL);
	return send(skb, s, &in, one);
}
