/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * A part of mesh.c, which includes it once.
 *
 * In: from the underlay to the TUN's ingress, by tc or by XDP. What XDP leaves comes to the
 * tc program, too, which alone counts hand-overs. Where settings.decap is set, the kernel's GRO knows what
 * datagrams of the mesh's port have in them (a FOU socket of the type GUE), and superpackets come to tc:
 *
 *	superpackets, checksums that only the kernel verifies, IPv6 in IPv4
 *	             -> marked, left -> IP -> UDP -> FOU -> a tunnel's device -> mesh_decap -> TUN
 *	TCP, while such are on their way
 *	             -> outer headers off, marked -> the device -> mesh_decap -> TUN
 *	others       -> outer headers off -> TUN
 *
 * The first ways of TCP lead through the backlog of the CPU twice, so a flow keeps its order. A round trip of
 * small packets is spared that.
 */
#include <linux/if_packet.h>

#include "bursts.h"
#include "check.h"
#include "flows.h"
#include "handin.h"
#include "icmp.h"
#include "maps.h"
#include "packet.h"

static __always_inline void count_received(struct counters *c, struct amount a)
{
	c->rx_packets += a.packets;
	c->rx_bytes += a.bytes;
	c->seen = bpf_ktime_get_boot_ns();
}

/* Brings the first bytes of an skb within reach of the program. */
static __always_inline int reach(struct __sk_buff *skb, __u32 bytes)
{
	return bpf_skb_pull_data(skb, bytes < skb->len ? bytes : skb->len);
}

/* Brings the headers of the inner packet within reach, and no payload: GRO takes a packet
 * apart slowly whose payload is not all in pages. Of superpackets TCP's is looked at, too. */
static __always_inline int reach_inner(struct __sk_buff *skb, const __u32 link, const struct outer *o, __u32 gso_size)
{
	__u32 before = link + o->header;
	__u8 *first;

	if (gso_size)
		return reach(skb, before + MOST_HEADERS);
	if (reach(skb, before + sizeof(struct iphdr)))
		return -1;
	first = behind_outer((void *)(long)skb->data, link, o->v6);
	if ((void *)(first + 1) > (void *)(long)skb->data_end || *first >> 4 != 6)
		return 0;
	return reach(skb, before + sizeof(struct ipv6hdr));
}

/* How long packets of a peer are not merged after one of its superpackets came whole, ns. */
#define WHOLE_FOR 1000000000ULL

/* Puts an Ethernet header in front of a packet of a device that has none: the merger is a veth.
 * Whose frame it is does not matter there. Negative: there is no room. */
static __always_inline int put_frame(struct __sk_buff *skb, const struct inner *in)
{
	__be16 protocol = in->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);

	if (bpf_skb_change_head(skb, sizeof(struct ethhdr), 0))
		return -1;
	return bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0);
}

/* Takes an accepted packet to the TUN. One of TCP goes by the interface where the kernel's GRO
 * merges it with its neighbours, since the GRO of the underlay has seen no TCP.
 *
 * A superpacket that came whole, from a sender whose device did not cut it, cannot go that way, and
 * would overtake those that do. So as long as a peer sends some, on this CPU, none of its packets
 * is merged: there is little left to merge then. count_received has just set c->seen to now.
 *
 * Where the kernel takes headers off, a datagram of UDP goes by its device, too, if it follows a superpacket. */
static __always_inline int deliver(struct __sk_buff *skb, const struct settings *s, const __u32 link, const struct inner *in, struct counters *c, __u32 gso_size, int follows)
{
	/* What the card hashed are outer headers, the same for all flows of a peer. */
	bpf_set_hash_invalid(skb);
	if (s->decap && (follows || (in->protocol == IPPROTO_TCP && on_the_way(c->seen)))) {
		skb->mark = s->tag | DONE;
		count_merging(MERGER_IN, 1);
		return bpf_redirect(s->decap, BPF_F_INGRESS);
	}
	if (gso_size)
		c->whole = c->seen;
	if (!s->merger || in->protocol != IPPROTO_TCP || c->seen - c->whole < WHOLE_FOR)
		return bpf_redirect(s->tun, BPF_F_INGRESS);
	if (!link && put_frame(skb, in)) {
		c->drops[DROP_WRITE_ERROR]++;
		return TC_ACT_SHOT;
	}
	bpf_get_hash_recalc(skb); /* GRO finds a packet's flow by it */
	/* The queue is the CPU's, as if it were a card's: what was spread over CPUs stays so. */
	skb->queue_mapping = bpf_get_smp_processor_id() + 1;
	count_merging(MERGER_IN, 1);
	return bpf_redirect(s->merger, 0);
}

/* Makes an inner packet, whose outer headers are off, one that a router passes on, and takes
 * off what pads it to the smallest frame. Negative: it is lost.
 *
 * It writes by a helper: of a program that writes into packets itself the kernel has each frame
 * that a capture sees, too, copied first, and before Linux 6.19 the mark is lost by that
 * (bpf_unclone_prologue, pskb_expand_head). */
static __always_inline int strip(struct __sk_buff *skb, const __u32 link, const struct inner *in)
{
	__u64 begin[2]; /* of the header, as far as it changes */
	__u32 changed = 12;
	__u64 flags = 0;
	__u16 *words;
	struct hop h;

	if (skb->len != link + in->length && bpf_skb_change_tail(skb, link + in->length, 0))
		return -1;
	words = (void *)(long)skb->data + link;
	if ((void *)words + sizeof(struct iphdr) > (void *)(long)skb->data_end)
		return -1;
	if (in->v6) {
		/* Where a card has summed the packet up, the sum has to follow. An IPv4 header
		 * has a checksum of its own, and adds nothing. */
		flags = BPF_F_RECOMPUTE_CSUM;
		changed = 8;
		h = next_hop6(words, in->tos);
		begin[0] = join(h.first, words[1], words[2], h.ttl);
	} else {
		h = next_hop4(words, in->tos);
		begin[0] = join(h.first, words[1], words[2], words[3]);
		begin[1] = join(h.ttl, h.check, 0, 0);
	}
	return bpf_skb_store_bytes(skb, link, begin, changed, flags);
}

/* What is known of an interface; null if XDP is not there. */
static __always_inline const struct device *device_of(const struct settings *s, __u32 index)
{
#pragma unroll
	for (int i = 0; i < DEVICES; i++) {
		if (s->devices[i].index == index)
			return &s->devices[i];
		if (!s->devices[i].index)
			break;
	}
	return 0;
}

static __always_inline int same_mark(const struct mark *a, const struct mark *b)
{
	return same16(a->words, b->words);
}

/* Takes a frame to the TUN that XDP has accepted. What is for a VLAN, whose tag the card took
 * off where XDP does not see it, or for another host, is dropped: its outer headers are gone.
 * So is what was on its way when XDP left the interface, and what somebody marked who has
 * read the mark in front of a packet for a pod of theirs. */
static __always_inline int deliver_marked(struct __sk_buff *skb, const struct settings *s)
{
	struct counters *c;

	if (device_of(s, skb->ifindex) && !skb->vlan_present && skb->pkt_type == PACKET_HOST)
		return bpf_redirect(s->tun, BPF_F_INGRESS);
	c = counters_of(SELF);
	if (c)
		c->drops[DROP_WRONG_DESTINATION]++;
	return TC_ACT_SHOT;
}

/* Whether the kernel is to take the headers off an accepted datagram. User space takes those of UDP from
 * sockets: it merges them, and they keep their order, since all of a flow go there. */
static __always_inline int is_for_kernel(const struct settings *s, const struct outer *o, const struct inner *in, __u32 gso_size)
{
	int tcp = in->protocol == IPPROTO_TCP;

	if (!s->decap)
		return 0;
	if (o->why)
		return tcp;
	return gso_size ? tcp || in->protocol == IPPROTO_UDP : in->v6 != o->v6;
}

/* Leaves an accepted datagram to the kernel, which takes its outer headers off and merges ECN. */
static __always_inline int leave_to_kernel(struct __sk_buff *skb, const struct settings *s, const struct inner *in, __u32 sender, struct counters *c, __u32 at, void *data, void *end, __u32 gso_size)
{
	struct amount a;
	__u32 weight;
	__u32 one = gso_size ? any_segment_size(data, end, in, gso_size) : in->length;

	if (!one) { /* it ends within TCP's header */
		c->drops[DROP_MALFORMED]++;
		return TC_ACT_SHOT;
	}
	a = amount_of(gso_size, in->length, one);
	count_received(c, a);
	weight = flow_weight(s, a.packets);
	if (weight)
		note_flow(skb, at, flow_of(sender, in, FLOW_IN), weight * a.packets, weight * a.bytes);
	count_merging(MERGER_IN, 1);
	note_left(c->seen);
	skb->mark = s->tag;
	return LEAVE;
}

/* Takes a datagram in whose link header has a size that the compiler knows, and whose IP header is
 * of a protocol. */
static __always_inline int receive(struct __sk_buff *skb, const struct settings *s, const __u32 link, __be16 protocol)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 sender = 0, size = skb->gso_size, one;
	struct outer o = {};
	struct inner in = {};
	struct counters *c = 0;
	struct amount a;
	__u32 weight;
	int v, follows = 0;

	v = read_outer(data + link, end, skb->len - link, protocol, s, &o);
	if (v == NOT_OURS) {
		mend_error(skb, s, protocol, link);
		if (s->user_port && protocol == bpf_htons(ETH_P_IPV6))
			mend_fragment(skb, s, link, 1);
		return LEAVE;
	}
	if (v == ACCEPT) /* or to all on the link */
		v = skb->pkt_type == PACKET_HOST ? sender_of(&o, s->decap != 0, &sender, &c) : HAND_UNUSUAL;
	if (v != ACCEPT || !c)
		return hand_in(skb, s, link, protocol, v);
	if (reach_inner(skb, link, &o, size))
		return hand_in(skb, s, link, protocol, HAND_UNUSUAL);
	data = behind_outer((void *)(long)skb->data, link, o.v6);
	end = (void *)(long)skb->data_end;
	v = judge(data, end, s, &o, sender, c, &in);
	if (v == DROPPED)
		return TC_ACT_SHOT;
	if (v == ACCEPT && in.protocol == IPPROTO_UDP)
		follows = is_of_burst(skb, link + o.header, in.v6, size);
	if (v == ACCEPT && is_for_kernel(s, &o, &in, size))
		return leave_to_kernel(skb, s, &in, sender, c, link + o.header, data, end, size);
	if (o.why) {
		c->left = bpf_ktime_get_boot_ns();
		v = o.why;
	}
	/* Taking headers off does not change the protocol of the packet before Linux 6.3. And it leaves the kernel
	 * the belief that a superpacket is one of a tunnel (SKB_GSO_UDP_TUNNEL): who cuts one of UDP would take
	 * its header for that of the tunnel. */
	if (v == ACCEPT && (in.v6 != o.v6 || (follows && !s->decap)))
		v = HAND_UNUSUAL;
	if (v != ACCEPT)
		return hand_in(skb, s, link, protocol, v);
	/* How many packets it stands for, before the kernel forgets. */
	one = size ? segment_size(data, end, &in, size) : in.length;
	if (!one || bpf_skb_adjust_room(skb, -(__s32)o.header, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return hand_in(skb, s, link, protocol, HAND_UNUSUAL);
	if (strip(skb, link, &in)) {
		c->drops[DROP_WRITE_ERROR]++;
		return TC_ACT_SHOT;
	}
	a = amount_of(size, in.length, one);
	count_received(c, a);
	weight = flow_weight(s, a.packets);
	if (weight)
		note_flow(skb, link, flow_of(sender, &in, FLOW_IN), weight * a.packets, weight * a.bytes);
	return deliver(skb, s, link, &in, c, size, follows);
}

SEC("tc")
int mesh_in(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct mark *mark = (void *)(long)skb->data_meta;
	struct settings *s = get_settings();
	struct ethhdr *eth = data;

	if (!s)
		return LEAVE;
	if ((void *)(mark + 1) <= data && (same_mark(mark, &s->mark) || same_mark(mark, &s->before)))
		return deliver_marked(skb, s);
	/* A VLAN's frame is for another interface, or for none; a bridge's, or one that a capture
	 * sees, may be for another host. The kernel tells them apart. */
	if (skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST)
		return LEAVE;
	if ((void *)(eth + 1) > end)
		return LEAVE;
	return receive(skb, s, sizeof(*eth), eth->h_proto);
}

/* mesh_in for an interface whose packets begin with IP: WireGuard, PPP, a TUN. */
SEC("tc")
int mesh_in_bare(struct __sk_buff *skb)
{
	struct settings *s = get_settings();

	return s ? receive(skb, s, 0, skb->protocol) : LEAVE;
}

/* Takes packets from the exit of the merger to the TUN. Only IP packets of TCP can have entered by
 * mesh_in: others are the kernel's own, or of programs that speak there, and are dropped. */
SEC("tc")
int mesh_merged(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct settings *s = get_settings();
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	__u8 *protocol = advance(data, v6, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, nexthdr), sizeof(struct ethhdr) + offsetof(struct iphdr, protocol));

	if (!s || (!v6 && skb->protocol != bpf_htons(ETH_P_IP)) || (void *)(protocol + 1) > end || *protocol != IPPROTO_TCP)
		return TC_ACT_SHOT;
	count_merging(MERGER_OUT, skb->gso_segs ? skb->gso_segs : 1);
	return bpf_redirect(s->tun, BPF_F_INGRESS);
}

/* Takes one off the TTL of a packet whose IP header begins at an offset that the compiler knows. */
static __always_inline int pass_hop(struct __sk_buff *skb, const __u32 at, int v6)
{
	__u16 *words = (void *)(long)skb->data + at;
	struct inner in = {.v6 = v6, .length = skb->len - at};

	if ((void *)words + sizeof(struct iphdr) > (void *)(long)skb->data_end)
		return -1;
	in.tos = bpf_ntohs(words[0]) >> (v6 ? 4 : 0); /* the kernel has merged ECN into it */
	return strip(skb, at, &in);
}

/* Takes packets to the TUN that the kernel has taken out of datagrams, as mesh_in has marked them. Everything
 * else that comes to a tunnel's device is dropped: bare packets in IP, of whoever sends some, and datagrams
 * that no program has judged, by the loopback interface or from a pod. */
SEC("tc")
int mesh_decap(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	__u32 tag = skb->mark & ~DONE, v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	__u8 first;
	int lost;

	if (!s || !s->tag || (tag != s->tag && tag != s->tag_before)) {
		note_stray(skb);
		return TC_ACT_SHOT;
	}
	if (!(skb->mark & DONE)) {
		if (reach(skb, sizeof(struct iphdr) + sizeof(struct ipv6hdr)) || bpf_skb_load_bytes(skb, 0, &first, sizeof(first)))
			return TC_ACT_SHOT;
		/* The kernel takes the outer header for that of the link, if the inner packet is of another
		 * family (ipip6_rcv in net/ipv6/sit.c). */
		lost = v6 && first >> 4 == 4 ? pass_hop(skb, sizeof(struct iphdr), 1) : pass_hop(skb, 0, v6);
		if (lost)
			return TC_ACT_SHOT;
	}
	skb->mark = 0;
	bpf_set_hash_invalid(skb); /* as in deliver */
	count_merging(MERGER_OUT, 1);
	return bpf_redirect(s->tun, BPF_F_INGRESS);
}

/* Puts a mark in front of a frame, in the place of what was there before, or in front of that if
 * it is shorter. Negative: there is no room. */
static __always_inline int put_mark(struct xdp_md *ctx, const struct mark *value)
{
	struct mark *mark = (void *)(long)ctx->data_meta;

	if ((void *)(mark + 1) > (void *)(long)ctx->data && bpf_xdp_adjust_meta(ctx, -(int)sizeof(*mark)))
		return -1;
	mark = (void *)(long)ctx->data_meta;
	if ((void *)(mark + 1) > (void *)(long)ctx->data)
		return -1;
	*mark = *value;
	return 0;
}

/* Whether a frame is for the interface that it came in by, and not for all or for another. */
static __always_inline int is_for_device(const struct settings *s, __u32 index, const struct ethhdr *eth)
{
	const struct device *d = device_of(s, index);
	const __u16 *a, *b = (const void *)eth->h_dest;

	if (!d)
		return 0;
	a = (const void *)d->address;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/* Decides about a frame that XDP has got: XDP_DROP, XDP_PASS for one whose outer headers are
 * off, and which is marked; negative: it is left as it came. */
static __always_inline int take(struct xdp_md *ctx, const struct settings *s)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data, frame;
	struct outer o = {};
	struct inner in = {};
	struct counters *c = 0;
	__u32 sender = 0, weight;
	int v;

	if ((void *)(eth + 1) > end || read_outer(eth + 1, end, bpf_xdp_get_buff_len(ctx) - sizeof(*eth), eth->h_proto, s, &o) != ACCEPT ||
	    !is_for_device(s, ctx->ingress_ifindex, eth) || sender_of(&o, 0, &sender, &c) != ACCEPT || !c)
		return -1;
	data = behind_outer(data, sizeof(*eth), o.v6);
	v = judge(data, end, s, &o, sender, c, &in);
	if (v == DROPPED)
		return XDP_DROP;
	if (v != ACCEPT || rewrite(data, end, &in))
		return -1;
	/* A frame is padded to 60 bytes; the kernel takes that off by the inner length. */
	__builtin_memcpy(&frame, eth, sizeof(frame));
	frame.h_proto = in.v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (bpf_xdp_adjust_head(ctx, o.header) || put_mark(ctx, &s->mark))
		goto lost;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(frame) > end)
		goto lost;
	__builtin_memcpy(data, &frame, sizeof(frame));
	count_received(c, amount_of(0, in.length, in.length));
	weight = flow_weight(s, 1);
	if (weight)
		note_frame(ctx, sizeof(frame), flow_of(sender, &in, FLOW_IN), weight, weight * in.length);
	return XDP_PASS;
lost:
	c->drops[DROP_WRITE_ERROR]++;
	return XDP_DROP;
}

/* Needs Linux 5.18, for bpf_xdp_get_buff_len, and for frames that are larger than a page. */
SEC("xdp.frags")
int mesh_xdp(struct xdp_md *ctx)
{
	const struct mark none = {};
	struct settings *s = get_settings();
	int verdict;

	/* A driver without metadata says so (xdp_set_data_meta_invalid): nothing can be marked. */
	if (!s || (void *)(long)ctx->data_meta > (void *)(long)ctx->data)
		return XDP_PASS;
	verdict = take(ctx, s);
	if (verdict >= 0)
		return verdict;
	put_mark(ctx, &none); /* without room for a mark there is none that could be believed */
	return XDP_PASS;
}
