/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Headers: reading and writing them, without maps. Checksums as RFC 791 and 1624 have them.
 */
#ifndef MESH_PACKET_H
#define MESH_PACKET_H

#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VERSION_IHL 0x45 /* IPv4 without options */
#define DONT_FRAGMENT 0x4000
#define FRAGMENT_BITS 0x3fff /* more fragments, and the offset */
#define HOPS 64		     /* of outer headers */
#define FIRST_FLOW_PORT 0xc000 /* of the dynamic ports (RFC 6335, section 6), down to the last */
#define MOST_HEADERS 60	     /* IPv6 and TCP without options */

/* Has the verifier forget what it knows of a number; le64 changes nothing in an object that is bpfel.
 *
 * Until Linux 6.8 the verifier takes a number whose range it knows, once it is on the stack at
 * a multiple of eight bytes, for a spilled pointer. A program without CAP_PERFMON may then write only
 * eight bytes there ("attempt to corrupt spilled pointer on stack"). So what is built on the stack is
 * written in eights, or of numbers that were forgotten. */
static __always_inline __u64 forgotten(__u64 n)
{
	asm volatile("%0 = le64 %0" : "+r"(n));
	return n;
}

/* Copies an address to the stack. */
static __always_inline void copy_address(void *to, const void *from, int v6)
{
	const __u32 *words = from;
	__u32 *copy = to;

	copy[0] = forgotten(words[0]);
	if (v6) {
		copy[1] = forgotten(words[1]);
		copy[2] = forgotten(words[2]);
		copy[3] = forgotten(words[3]);
	}
}

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

/* Where the inner packet of a frame begins, whose outer headers are IPv6 or not, and whose link
 * header has a size that the compiler knows. */
static __always_inline void *behind_outer(void *frame, const __u32 link, int v6)
{
	return advance(frame, v6, link + sizeof(struct outer6), link + sizeof(struct outer4));
}

/* Where what an IP header carries begins. */
static __always_inline void *behind_ip(void *data, int v6)
{
	return advance(data, v6, sizeof(struct ipv6hdr), sizeof(struct iphdr));
}

/* What is known of an inner packet once its header was looked at. */
struct inner {
	__u32 source;	   /* what the longest prefixes lead to, or NOWHERE */
	__u32 destination;
	__u32 length;	   /* as its header has it */
	__u8 tos;
	__u8 ttl;
	__u8 protocol;	   /* of what follows the header */
	__u8 header;	   /* bytes of it */
	__u8 v6;
	__u8 to_tun;	   /* its destination is the TUN itself */
};

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
static __always_inline __u16 update_checksum(__u16 check, __u16 before, __u16 after)
{
	return ~fold((__u16)~check + (__u16)~before + after);
}

/* The words of an IP header, of 16 bits in network order, that a router changes. */
struct hop {
	__u16 first; /* with the TOS, or the traffic class */
	__u16 ttl;   /* with the TTL, or the hop limit; the fifth of IPv4, the fourth of IPv6 */
	__u16 check; /* of IPv4 */
};

/* What becomes of a header when one is taken off its TTL, which is not 0, and its TOS is set. */
static __always_inline struct hop next_hop4(const __u16 *words, __u8 tos)
{
	struct hop h;

	h.first = bpf_htons((bpf_ntohs(words[0]) & 0xff00) | tos);
	h.ttl = bpf_htons(bpf_ntohs(words[4]) - 0x0100);
	h.check = update_checksum(words[5], words[4], h.ttl);
	h.check = update_checksum(h.check, words[0], h.first);
	return h;
}

static __always_inline struct hop next_hop6(const __u16 *words, __u8 tos)
{
	struct hop h = {.check = 0};

	h.first = bpf_htons((bpf_ntohs(words[0]) & 0xf00f) | tos << 4);
	h.ttl = bpf_htons(bpf_ntohs(words[3]) - 0x0001);
	return h;
}

/* Four words of a header as they follow each other in memory. */
static __always_inline __u64 join(__u16 a, __u16 b, __u16 c, __u16 d)
{
	return (__u64)d << 48 | (__u64)c << 32 | (__u64)b << 16 | a;
}

/* Takes one off the TTL of an inner packet, and sets its TOS. Negative: it is not all there. */
static __always_inline int rewrite(void *data, void *end, const struct inner *in)
{
	__u16 *words = data;
	struct hop h;

	if (in->v6) {
		if (data + sizeof(struct ipv6hdr) > end)
			return -1;
		h = next_hop6(words, in->tos);
		words[0] = h.first;
		words[3] = h.ttl;
	} else {
		if (data + sizeof(struct iphdr) > end)
			return -1;
		h = next_hop4(words, in->tos);
		words[0] = h.first;
		words[4] = h.ttl;
		words[5] = h.check;
	}
	return 0;
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

/* Bytes of one packet of a superpacket; 0: its header is not all there, or it is none of TCP.
 * Who receives one of UDP by a socket could not tell any more where its datagrams end. */
static __always_inline __u32 segment_size(void *data, void *end, const struct inner *in, __u32 gso_size)
{
	struct tcphdr *tcp = behind_ip(data, in->v6);

	if (in->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return 0;
	return in->header + tcp->doff * 4 + gso_size;
}

/* segment_size for who leaves a superpacket whole: one of UDP is fine, too. */
static __always_inline __u32 any_segment_size(void *data, void *end, const struct inner *in, __u32 gso_size)
{
	if (in->protocol == IPPROTO_UDP)
		return in->header + sizeof(struct udphdr) + gso_size;
	return segment_size(data, end, in, gso_size);
}

/* What an skb stands for on a wire: packets, each with headers of its own. */
struct amount {
	__u32 packets, bytes;
};

/* one is the size of a packet with headers. gso_segs would be 0 where the kernel has not counted yet. */
static __always_inline struct amount amount_of(__u32 gso_size, __u32 length, __u32 one)
{
	struct amount a = {.packets = 1, .bytes = length};
	__u32 headers = one - gso_size;

	if (gso_size && length > one) {
		a.packets = (length - headers + gso_size - 1) / gso_size;
		a.bytes += (a.packets - 1) * headers;
	}
	return a;
}

#endif
