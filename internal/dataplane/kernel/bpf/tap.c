/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * A tap: copies of the packets that an interface gets from peers, and that it sends to them. It is an object
 * of its own, loaded for each capture and gone after it, so that packets pay nothing without one.
 *
 *	egress     before mesh_out takes the packet to the underlay, or WireGuard encrypts it
 *	ingress    after mesh_in has taken the outer headers off, or WireGuard has decrypted it
 *
 * A packet socket would see the same on the interface of WireGuard, but only what the queue of the TUN gets, and
 * it needs CAP_NET_RAW. A packet is never changed here, and never waits: without room in the ring its copy is
 * lost, and counted.
 *
 * Needs Linux 5.8, for the ring. Without CAP_PERFMON, so what packet.h says of the stack holds.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "mesh.h"
#include "packet.h"

#define PREFIXES 131072
#define RING (4 << 20)
#define FRAGMENT_OFFSET 0x1fff

/* What the loader decides, before the verifier sees it. */
volatile const __u32 snap = 65535; /* bytes that are kept of a packet, 1 to 65535 */
volatile const __u32 by_peer = 0;  /* only what comes from peers, or goes to them */
volatile const __u32 by_host = 0;  /* 4 or 6: only what has host as an address */
volatile const __u32 host[4] = {}; /* in network order */
volatile const __u32 by_port = 0;  /* only TCP and UDP with this port */

/* The prefixes of the peer. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix4);
	__type(value, __u32);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} peer4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix6);
	__type(value, __u32);
	__uint(max_entries, PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} peer6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING);
} ring SEC(".maps");

/* Copies, and those that the ring had no room for. */
enum { TAP_KEPT, TAP_LOST, TAP_COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, TAP_COUNTS);
} tapped SEC(".maps");

/* What stands in front of each copy. */
struct copy {
	__u64 at;	/* bpf_ktime_get_boot_ns */
	__u32 length;	/* of the packet, bytes */
	__u32 kept;	/* of it */
	__u32 incoming;
	__u32 pad;
};

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&tapped, &what);

	if (n)
		(*n)++;
}

/* Whether the address of the other side is one of the peer's. */
static __always_inline int is_peers(struct __sk_buff *skb, int incoming, int v6)
{
	__u32 address[4];

	if (v6) {
		struct prefix6 key;

		if (bpf_skb_load_bytes(skb, incoming ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr), address, 16))
			return 0;
		key.length = forgotten(128);
		copy_address(key.address, address, 1);
		return bpf_map_lookup_elem(&peer6, &key) != 0;
	}
	struct prefix4 key;

	if (bpf_skb_load_bytes(skb, incoming ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr), address, 4))
		return 0;
	key.length = forgotten(32);
	copy_address(key.address, address, 0);
	return bpf_map_lookup_elem(&peer4, &key) != 0;
}

/* Whether one of the addresses is that of the host. */
static __always_inline int has_host(struct __sk_buff *skb, int v6)
{
	__u32 a[8];

	if (v6) {
		if (by_host != 6 || bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, saddr), a, 32))
			return 0;
		return (a[0] == host[0] && a[1] == host[1] && a[2] == host[2] && a[3] == host[3]) ||
		       (a[4] == host[0] && a[5] == host[1] && a[6] == host[2] && a[7] == host[3]);
	}
	if (by_host != 4 || bpf_skb_load_bytes(skb, offsetof(struct iphdr, saddr), a, 8))
		return 0;
	return a[0] == host[0] || a[1] == host[0];
}

/* Whether it is TCP or UDP with the port. Fragments but the first tell no port, and are left out. */
static __always_inline int has_port(struct __sk_buff *skb, int v6)
{
	__u8 begin[10];
	__be16 ports[2];
	__u32 protocol, at;

	if (bpf_skb_load_bytes(skb, 0, begin, sizeof(begin)))
		return 0;
	if (v6) {
		protocol = begin[offsetof(struct ipv6hdr, nexthdr)];
		at = sizeof(struct ipv6hdr);
	} else {
		if ((begin[6] << 8 | begin[7]) & FRAGMENT_OFFSET)
			return 0;
		protocol = begin[offsetof(struct iphdr, protocol)];
		at = (begin[0] & 0xf) * 4;
	}
	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return 0;
	return bpf_ntohs(ports[0]) == by_port || bpf_ntohs(ports[1]) == by_port;
}

/* Copies the first bytes of a packet, kept of them, into a place for size bytes, a power of two. The sizes of
 * places are constants, as the kernel wants them, so there is one for small packets, for whole ones, and for
 * superpackets. The verifier has to see that at least one byte is copied, and at most size. Negative: there is
 * no room. */
#define KEEP(size)                                                                                        \
	static __always_inline int keep_##size(struct __sk_buff *skb, __u32 kept, int incoming)           \
	{                                                                                                 \
		__u64 less = (kept - 1) & (size - 1);                                                     \
		struct {                                                                                  \
			struct copy head;                                                                 \
			__u8 bytes[size];                                                                 \
		} *c = bpf_ringbuf_reserve(&ring, sizeof(*c), 0);                                         \
                                                                                                          \
		if (!c)                                                                                   \
			return -1;                                                                        \
		c->head.at = bpf_ktime_get_boot_ns();                                                     \
		c->head.length = skb->len;                                                                \
		c->head.kept = kept;                                                                      \
		c->head.incoming = incoming;                                                              \
		c->head.pad = 0;                                                                          \
		asm volatile("%0 &= %1" : "+r"(less) : "i"(size - 1));                                    \
		if (bpf_skb_load_bytes(skb, 0, c->bytes, less + 1)) {                                     \
			bpf_ringbuf_discard(c, 0);                                                        \
			return 0;                                                                         \
		}                                                                                         \
		bpf_ringbuf_submit(c, 0);                                                                 \
		count(TAP_KEPT);                                                                          \
		return 0;                                                                                 \
	}

KEEP(256)
KEEP(2048)
KEEP(65536)

static __always_inline int tap(struct __sk_buff *skb, int incoming)
{
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6), full;
	__u32 kept = skb->len < snap ? skb->len : snap;

	if ((!v6 && skb->protocol != bpf_htons(ETH_P_IP)) || (by_peer && !is_peers(skb, incoming, v6)) ||
	    (by_host && !has_host(skb, v6)) || (by_port && !has_port(skb, v6)))
		return TC_ACT_UNSPEC;
	if (kept <= 256)
		full = keep_256(skb, kept, incoming);
	else if (kept <= 2048)
		full = keep_2048(skb, kept, incoming);
	else
		full = keep_65536(skb, kept, incoming);
	if (full)
		count(TAP_LOST);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tap_in(struct __sk_buff *skb)
{
	return tap(skb, 1);
}

SEC("tc")
int tap_out(struct __sk_buff *skb)
{
	return tap(skb, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
