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
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "mesh.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#define NODES 16384
#define PREFIXES 131072

/* One element, 0: replaced as a whole, so that no program sees half of it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct settings);
	__uint(max_entries, 1);
} configured SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct node);
	__uint(max_entries, NODES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} nodes SEC(".maps");

/* Prefix -> number of the node that has it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix4);
	__type(value, __u32);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix6);
	__type(value, __u32);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} prefixes6 SEC(".maps");

/* Outer source address, as in struct node -> number of the node that it is of. */
struct sender {
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sender);
	__type(value, __u32);
	__uint(max_entries, NODES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, NODES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} counted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, HANDS);
} handed SEC(".maps");

/* On to the next program, the TUN's queue, or the socket. */
#define LEAVE TC_ACT_UNSPEC

#define VERSION_IHL 0x45 /* IPv4 without options */

#define SELF 0

#define unlikely(x) __builtin_expect(!!(x), 0)

struct outer4 {
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

struct outer6 {
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* Adds one of two constants to a pointer. Who has CAP_BPF, and not CAP_PERFMON, may add only
 * what is the same on each way to the instruction: two additions must not become one. */
static __always_inline void *advance(void *data, int first, int a, int b)
{
	if (first) {
		data += a;
		asm volatile("" : "+r"(data));
	} else {
		data += b;
		asm volatile("" : "+r"(data));
	}
	return data;
}

/* Where the inner packet of a frame begins. */
static __always_inline void *behind_outer(void *data, __u8 header)
{
	return advance(data, header == sizeof(struct outer6), sizeof(struct ethhdr) + sizeof(struct outer6),
		       sizeof(struct ethhdr) + sizeof(struct outer4));
}

/* Where what an IP header carries begins. */
static __always_inline void *behind_ip(void *data, int v6)
{
	return advance(data, v6, sizeof(struct ipv6hdr), sizeof(struct iphdr));
}

static __always_inline int hand(enum handover why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&handed, &key);

	if (n)
		(*n)++;
	return LEAVE;
}

static __always_inline struct settings *get_settings(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&configured, &key);
}

static __always_inline struct counters *counters_of(__u32 node)
{
	return bpf_map_lookup_elem(&counted, &node);
}

/* What is known of an inner packet once its header was looked at. */
struct inner {
	__u32 source;	   /* numbers of nodes */
	__u32 destination;
	__u32 length;	   /* as its header has it */
	__u8 tos;
	__u8 ttl;
	__u8 protocol;	   /* of what follows the header */
	__u8 header;	   /* bytes of it */
	__u8 v6;
	__u8 to_tun;	   /* its destination is the TUN itself */
};

static __always_inline __u32 *node_of4(const void *address)
{
	struct prefix4 key = {.length = 32};

	__builtin_memcpy(key.address, address, 4);
	return bpf_map_lookup_elem(&prefixes4, &key);
}

static __always_inline __u32 *node_of6(const void *address)
{
	struct prefix6 key = {.length = 128};

	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(&prefixes6, &key);
}

static __always_inline int same4(const void *a, const void *b)
{
	return *(const __u32 *)a == *(const __u32 *)b;
}

static __always_inline int same16(const void *a, const void *b)
{
	const __u32 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Whether a header without options adds up (RFC 791). */
static __always_inline int header_is_valid(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return fold(sum) == 0xffff;
}

/* RFC 1624, equation 3. */
static __always_inline void update_checksum(struct iphdr *ip, __u16 before, __u16 after)
{
	ip->check = ~fold((__u16)~ip->check + (__u16)~before + after);
}

/* Takes one off the TTL, and sets the TOS. */
static __always_inline void rewrite4(struct iphdr *ip, __u8 tos)
{
	__u16 *words = (void *)ip;
	__u16 before = words[4];

	ip->ttl--;
	update_checksum(ip, before, words[4]);
	if (tos != ip->tos) {
		before = words[0];
		ip->tos = tos;
		update_checksum(ip, before, words[0]);
	}
}

static __always_inline void rewrite6(struct ipv6hdr *ip, __u8 tos)
{
	ip->hop_limit--;
	ip->priority = tos >> 4;
	ip->flow_lbl[0] = (ip->flow_lbl[0] & 0x0f) | tos << 4;
}

/*
 * The ECN bits of an inner header after the outer one is off (RFC 6040, figure 4), as
 * packet.Decapsulate has it. Negative: not to be delivered.
 */
static __always_inline int merge_ecn(__u8 inner, __u8 outer)
{
	enum { NOT_ECT, ECT_1, ECT_0, CE };

	if ((outer & 3) == CE) {
		if ((inner & 3) == NOT_ECT)
			return -1;
		return inner | CE;
	}
	if ((outer & 3) == ECT_1 && (inner & 3) == ECT_0)
		return (inner & ~3) | ECT_1;
	return inner;
}

/*
 * Out
 */

/* Bytes of one packet of a superpacket, or of the packet; 0: not known, or a superpacket of
 * UDP: a peer that receives by its socket could not tell any more where its datagrams end. */
static __always_inline __u32 packet_size(struct __sk_buff *skb, const struct inner *in)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!skb->gso_size)
		return skb->len;
	if (in->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = behind_ip(data, in->v6);

		if ((void *)(tcp + 1) > end)
			return 0;
		return in->header + tcp->doff * 4 + skb->gso_size;
	}
	return 0;
}

/* How many packets a superpacket of a length is, if one of them has a size with headers;
 * gso_segs is 0 where the kernel has not counted yet. */
static __always_inline __u32 segments_of(__u32 gso_size, __u32 length, __u32 one)
{
	__u32 headers = one - gso_size;

	if (!gso_size || length <= one)
		return 1;
	return (length - headers + gso_size - 1) / gso_size;
}

/* Counts what one skb stands for: its packets, and each with headers of its own. */
static __always_inline void count_sent(struct counters *c, struct __sk_buff *skb, __u32 length, __u32 one)
{
	__u32 n = segments_of(skb->gso_size, length, one);

	c->tx_packets += n;
	c->tx_bytes += length + (n - 1) * (one - skb->gso_size);
}

#define GROW (BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO)

static __always_inline int send(struct __sk_buff *skb, struct settings *s, const struct inner *in, __u32 one)
{
	__u32 length = skb->len, overhead = s->v6 ? sizeof(struct outer6) : sizeof(struct outer4);
	__u32 to = in->destination;
	struct node *node = bpf_map_lookup_elem(&nodes, &to);
	struct counters *c = counters_of(to);
	struct bpf_fib_lookup way = {};
	void *data, *end, *behind;
	struct ethhdr *eth;
	struct udphdr *udp;
	long err;

	if (!node || !c)
		return hand(HAND_NO_ROUTE);
	if (length + overhead > 0xffff) /* a superpacket that no outer header has room for */
		return hand(HAND_UNUSUAL);
	/* An inner checksum may be one that a device is to finish, and between hosts that share
	 * a machine there is none: flannel's kernel would drop the packet. */
	if (!node->finishes)
		return hand(HAND_PLAIN);
	way.family = s->v6 ? 10 /* AF_INET6 */ : 2 /* AF_INET */;
	way.l4_protocol = IPPROTO_UDP;
	way.sport = s->port;
	way.dport = node->port;
	way.tot_len = one + overhead;
	way.ifindex = skb->ifindex;
	if (s->v6) {
		__builtin_memcpy(way.ipv6_src, s->own, 16);
		__builtin_memcpy(way.ipv6_dst, node->address, 16);
	} else {
		__builtin_memcpy(&way.ipv4_src, s->own, 4);
		__builtin_memcpy(&way.ipv4_dst, node->address, 4);
	}
	err = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return hand(HAND_TOO_BIG);
	if ((err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH) || way.ifindex == skb->ifindex)
		return hand(HAND_UNDERLAY);

	/* From here on it is ours: what fails is lost. */
	if (s->v6)
		err = bpf_skb_adjust_room(skb, sizeof(struct outer6), BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	else
		err = bpf_skb_adjust_room(skb, sizeof(struct outer4), BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (err)
		return hand(HAND_UNUSUAL); /* nothing was changed yet */
	/* redirect_neigh wants a MAC header, and a TUN has none. */
	if (bpf_skb_change_head(skb, sizeof(*eth), 0) ||
	    bpf_skb_pull_data(skb, sizeof(*eth) + overhead + in->header))
		goto lost;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	eth = data;
	if (s->v6) {
		struct outer6 *o = data + sizeof(*eth);

		if ((void *)(o + 1) > end)
			goto lost;
		__builtin_memset(o, 0, sizeof(*o));
		o->ip.version = 6;
		o->ip.priority = in->tos >> 4;
		o->ip.flow_lbl[0] = in->tos << 4;
		o->ip.payload_len = bpf_htons(length + sizeof(struct udphdr));
		o->ip.nexthdr = IPPROTO_UDP;
		o->ip.hop_limit = 64;
		__builtin_memcpy(&o->ip.saddr, s->own, 16);
		__builtin_memcpy(&o->ip.daddr, node->address, 16);
		eth->h_proto = bpf_htons(ETH_P_IPV6);
	} else {
		struct outer4 *o = data + sizeof(*eth);
		__u16 *words = (void *)o;
		__u32 sum = 0;

		if ((void *)(o + 1) > end)
			goto lost;
		__builtin_memset(o, 0, sizeof(*o));
		o->ip.version = 4;
		o->ip.ihl = 5;
		o->ip.tos = in->tos;
		o->ip.tot_len = bpf_htons(length + sizeof(*o));
		o->ip.frag_off = bpf_htons(0x4000); /* do not fragment */
		o->ip.ttl = 64;
		o->ip.protocol = IPPROTO_UDP;
		__builtin_memcpy(&o->ip.saddr, s->own, 4);
		__builtin_memcpy(&o->ip.daddr, node->address, 4);
#pragma unroll
		for (int i = 0; i < 10; i++)
			sum += words[i];
		o->ip.check = ~fold(sum);
		eth->h_proto = bpf_htons(ETH_P_IP);
	}
	udp = advance(data, s->v6, sizeof(*eth) + sizeof(struct ipv6hdr), sizeof(*eth) + sizeof(struct iphdr));
	if ((void *)(udp + 1) > end)
		goto lost;
	udp->source = s->port;
	udp->dest = node->port;
	udp->len = bpf_htons(length + sizeof(*udp));
	udp->check = 0; /* over IPv6, too (RFC 6935): meshd's sockets take that */
	behind = behind_outer(data, overhead);
	if (in->v6) {
		if (behind + sizeof(struct ipv6hdr) > end)
			goto lost;
		((struct ipv6hdr *)behind)->hop_limit--;
	} else {
		if (behind + sizeof(struct iphdr) > end)
			goto lost;
		rewrite4(behind, in->tos);
	}
	count_sent(c, skb, length, one);
	return bpf_redirect_neigh(way.ifindex, 0, 0, 0);
lost:
	c->drops[DROP_SEND_ERROR]++;
	return TC_ACT_SHOT;
}

SEC("tc")
int mesh_out(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct inner in = {};
	void *data, *end;
	__u32 *to, one;

	if (!s)
		return LEAVE;
	if (s->watched)
		return hand(HAND_WATCHED);
	/* The headers, and those of TCP for its size. */
	bpf_skb_pull_data(skb, skb->len < 60 ? skb->len : 60);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end || *(__u8 *)data != VERSION_IHL ||
		    (!skb->gso_size && bpf_ntohs(ip->tot_len) != skb->len))
			return hand(HAND_UNUSUAL);
		in.tos = ip->tos;
		in.ttl = ip->ttl;
		in.protocol = ip->frag_off & bpf_htons(0x3fff) ? 0 : ip->protocol;
		in.header = sizeof(*ip);
		to = node_of4(&ip->daddr);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end || ip->version != 6 ||
		    (!skb->gso_size && bpf_ntohs(ip->payload_len) + sizeof(*ip) != skb->len))
			return hand(HAND_UNUSUAL);
		in.v6 = 1;
		in.tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		in.ttl = ip->hop_limit;
		in.protocol = ip->nexthdr;
		in.header = sizeof(*ip);
		to = node_of6(&ip->daddr);
	} else {
		return hand(HAND_UNUSUAL);
	}
	if (!to || *to == SELF)
		return hand(HAND_NO_ROUTE);
	if (in.ttl <= 1)
		return hand(HAND_TTL);
	in.destination = *to;
	one = packet_size(skb, &in);
	if (!one)
		return hand(HAND_UNUSUAL);
	if (one > s->mtu)
		return hand(HAND_TOO_BIG);
	return send(skb, s, &in, one);
}

/*
 * In
 */

/* What a datagram's outer headers say. */
struct outer {
	struct sender from;
	__u16 length; /* of the UDP payload, bytes */
	__u16 check;  /* of UDP */
	__u8 tos;
	__u8 header; /* bytes of IP and UDP headers */
};

enum verdict {
	ACCEPT,
	NOT_OURS, /* something else than a datagram for us */
	HANDED,	  /* ours, and for user space: counted */
	DROPPED,  /* counted */
};

/* Reads outer headers from where IP begins, of length bytes that came. What the kernel would
 * not give to a socket is left to it, to be counted where it always is. */
static __always_inline enum verdict read_outer(void *data, void *end, __u32 length, __be16 proto, const struct settings *s, struct outer *o)
{
	struct udphdr *udp;
	__u32 claimed; /* bytes of UDP, by the IP header */

	if (proto == bpf_htons(ETH_P_IP) && !s->v6) {
		struct iphdr *ip = data;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || !same4(&ip->daddr, s->own))
			return NOT_OURS;
		if (ip->frag_off & bpf_htons(0x3fff)) {
			hand(HAND_FRAGMENT);
			return HANDED;
		}
		if (*(__u8 *)data != VERSION_IHL || !header_is_valid(ip))
			return NOT_OURS;
		claimed = bpf_ntohs(ip->tot_len) - sizeof(*ip);
		o->tos = ip->tos;
		o->header = sizeof(struct outer4);
		__builtin_memcpy(o->from.address, &ip->saddr, 4);
		udp = (void *)(ip + 1);
	} else if (proto == bpf_htons(ETH_P_IPV6) && s->v6) {
		struct ipv6hdr *ip = data;

		if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP || !same16(&ip->daddr, s->own))
			return NOT_OURS;
		claimed = bpf_ntohs(ip->payload_len);
		o->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		o->header = sizeof(struct outer6);
		__builtin_memcpy(o->from.address, &ip->saddr, 16);
		udp = (void *)(ip + 1);
	} else {
		return NOT_OURS;
	}
	if ((void *)(udp + 1) > end || udp->dest != s->port || bpf_ntohs(udp->len) != claimed || claimed < sizeof(*udp) ||
	    o->header - sizeof(*udp) + claimed > length)
		return NOT_OURS;
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
	in->source = from ? *from : ~0U;
	in->destination = to ? *to : ~0U;
	return 0;
}

/* Decides about a datagram whose headers were read: the checks of inbound.accept. */
static __always_inline enum verdict judge(struct outer *o, struct inner *in, __u32 sender, struct counters *c)
{
	int tos;

	if (in->to_tun || in->ttl <= 1) {
		hand(in->to_tun ? HAND_TO_NODE : HAND_TTL);
		return HANDED;
	}
	if (in->source != sender) {
		c->drops[DROP_SPOOFED_SOURCE]++;
		return DROPPED;
	}
	if (in->destination != SELF) {
		c->drops[DROP_WRONG_DESTINATION]++;
		return DROPPED;
	}
	tos = merge_ecn(in->tos, o->tos);
	if (tos < 0) {
		c->drops[DROP_MALFORMED]++;
		return DROPPED;
	}
	in->tos = tos;
	return ACCEPT;
}

static __always_inline void count_received(struct counters *c, __u32 packets, __u32 bytes)
{
	c->rx_packets += packets;
	c->rx_bytes += bytes;
	c->seen = bpf_ktime_get_boot_ns();
}

/* In front of a packet whose outer headers XDP took off. Nobody on the wire can put it there. */
#define MARK 0x6d657368 /* mesh */

SEC("tc")
int mesh_in(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 *mark = (void *)(long)skb->data_meta;
	struct settings *s = get_settings();
	struct ethhdr *eth = data;
	struct outer o = {};
	struct inner in = {};
	struct counters *c;
	enum verdict v;
	__u32 *sender, segments, size, one;
	struct tcphdr *tcp;

	if (!s)
		return LEAVE;
	if ((void *)(mark + 1) <= data && *mark == MARK)
		return bpf_redirect(s->tun, BPF_F_INGRESS);
	if ((void *)(eth + 1) > end)
		return LEAVE;
	if (read_outer(eth + 1, end, skb->len - sizeof(*eth), eth->h_proto, s, &o) != ACCEPT)
		return LEAVE;
	/* The checksum of a datagram from a socket may be one that a device was to finish. It
	 * would still be said to begin where it did when the headers are gone, and nothing but
	 * the socket verifies it. The kernel engine sends none. */
	if (o.check)
		return hand(HAND_CHECKSUM);
	sender = bpf_map_lookup_elem(&senders, &o.from);
	if (!sender || *sender == SELF)
		return hand(HAND_UNKNOWN_SENDER);
	c = counters_of(*sender);
	if (!c)
		return hand(HAND_UNKNOWN_SENDER);
	if (bpf_skb_pull_data(skb, sizeof(*eth) + o.header + 60 < skb->len ? sizeof(*eth) + o.header + 60 : skb->len))
		return hand(HAND_UNUSUAL);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	data = behind_outer(data, o.header);
	/* A superpacket of a sender whose device did not cut it is one inner packet. */
	if (read_inner(data, end, s, o.length, &in))
		return hand(HAND_UNUSUAL);
	/* Taking headers off does not change the protocol of the packet before Linux 6.3. */
	if (in.v6 != s->v6)
		return hand(HAND_UNUSUAL);
	v = judge(&o, &in, *sender, c);
	if (v == DROPPED)
		return TC_ACT_SHOT;
	if (v != ACCEPT)
		return LEAVE;
	/* How many packets it stands for, before the kernel forgets. */
	size = skb->gso_size;
	one = in.header + (in.protocol == IPPROTO_TCP ? 20 : sizeof(struct udphdr)) + size;
	tcp = behind_ip(data, in.v6);
	if (in.protocol == IPPROTO_TCP && (void *)(tcp + 1) <= end)
		one = in.header + tcp->doff * 4 + size;
	if (bpf_skb_adjust_room(skb, -(__s32)o.header, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return hand(HAND_UNUSUAL);
	/* What is padding to the smallest frame goes, too. */
	if (skb->len != sizeof(*eth) + in.length && bpf_skb_change_tail(skb, sizeof(*eth) + in.length, 0))
		goto lost;
	if (bpf_skb_pull_data(skb, sizeof(*eth) + in.header))
		goto lost;
	data = (void *)(long)skb->data + sizeof(*eth);
	end = (void *)(long)skb->data_end;
	if (in.v6) {
		if (data + sizeof(struct ipv6hdr) > end)
			goto lost;
		rewrite6(data, in.tos);
	} else {
		if (data + sizeof(struct iphdr) > end)
			goto lost;
		rewrite4(data, in.tos);
	}
	segments = segments_of(size, in.length, one);
	count_received(c, segments, in.length + (segments - 1) * (one - size));
	return bpf_redirect(s->tun, BPF_F_INGRESS);
lost:
	c->drops[DROP_WRITE_ERROR]++;
	return TC_ACT_SHOT;
}

/* Needs Linux 5.18, for bpf_xdp_get_buff_len, and for frames that are larger than a page. */
SEC("xdp.frags")
int mesh_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct settings *s = get_settings();
	struct ethhdr *eth = data, frame;
	struct outer o = {};
	struct inner in = {};
	struct counters *c;
	enum verdict v;
	__u32 *sender, *mark;

	if (!s || (void *)(eth + 1) > end || read_outer(eth + 1, end, bpf_xdp_get_buff_len(ctx) - sizeof(*eth), eth->h_proto, s, &o) != ACCEPT)
		return XDP_PASS;
	if (o.check)
		return XDP_PASS; /* see mesh_in, which counts it */
	sender = bpf_map_lookup_elem(&senders, &o.from);
	if (!sender || *sender == SELF)
		return XDP_PASS; /* the program after counts it */
	c = counters_of(*sender);
	if (!c)
		return XDP_PASS;
	data = behind_outer(data, o.header);
	if (read_inner(data, end, s, o.length, &in))
		return XDP_PASS;
	v = judge(&o, &in, *sender, c);
	if (v == DROPPED)
		return XDP_DROP;
	if (v != ACCEPT)
		return XDP_PASS;
	/* A frame is padded to 60 bytes; the kernel takes that off by the inner length. */
	if (in.v6) {
		if (data + sizeof(struct ipv6hdr) > end)
			return XDP_PASS;
		rewrite6(data, in.tos);
	} else {
		if (data + sizeof(struct iphdr) > end)
			return XDP_PASS;
		rewrite4(data, in.tos);
	}
	__builtin_memcpy(&frame, eth, sizeof(frame));
	frame.h_proto = in.v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_xdp_adjust_head(ctx, o.header) || bpf_xdp_adjust_meta(ctx, -(int)sizeof(*mark)))
		goto lost;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	mark = (void *)(long)ctx->data_meta;
	if (data + sizeof(frame) > end || (void *)(mark + 1) > data)
		goto lost;
	__builtin_memcpy(data, &frame, sizeof(frame));
	*mark = MARK;
	count_received(c, 1, in.length);
	return XDP_PASS;
lost:
	c->drops[DROP_WRITE_ERROR]++;
	return XDP_DROP;
}
