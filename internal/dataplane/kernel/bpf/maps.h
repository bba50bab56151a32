/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the programs know and count. The daemon writes the maps while packets flow, each
 * element as a whole.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "mesh.h"
#include "packet.h"

#define NODES 16384
#define SENDERS (4 * NODES)
#define OWNS 64 /* as many as two meshes have */
#define PREFIXES 131072
#define CHUNK 1024

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

/* Prefix -> what it leads to, see SHARED. */
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

/* The shared prefixes of each node -> their length, without what is before the address. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct carrier);
	__type(value, __u32);
	__uint(max_entries, 2 * PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} carriers SEC(".maps");

/* Outer source address, its port 0 -> whose it is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint);
	__type(value, struct sender);
	__uint(max_entries, SENDERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} senders SEC(".maps");

/* Where we listen -> the port. With port 0: the first of the address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint);
	__type(value, __be16);
	__uint(max_entries, OWNS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} owns SEC(".maps");

/* Counters of CHUNK nodes. */
struct chunk {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, CHUNK);
};

/* Has clang describe the type, which it does not for a map within a map. */
const struct counters *counters_described __attribute__((unused));

/* The counters of a node, by its number: that of the chunk, and the place in it. A per-CPU hash that
 * allocates at each update runs out of per-CPU memory that is in place (ENOMEM) after some thousand
 * nodes, since it must not sleep. An array allocates once, when it is made; one of all NODES would
 * take 2 MB a CPU for three nodes. So the daemon makes the chunks that it needs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, NODES / CHUNK);
	__array(values, struct chunk);
} counted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, HANDS);
} handed SEC(".maps");

#define FLOWS 8192

struct flow_table {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow);
	__type(value, struct flow_count);
	__uint(max_entries, FLOWS);
};

/* As counters_described. */
const struct flow *flow_described __attribute__((unused));
const struct flow_count *flow_count_described __attribute__((unused));

/* One element, 0: what is counted for flows while settings.flows is set. An LRU hash allocates all of its
 * memory when it is made, so there is one only then. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct flow_table);
} flowing SEC(".maps");

/* One element, 0: bit n is set if a packet with DSCP value n has left since the daemon cleared it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} marks SEC(".maps");

/* Packets that went into the merger, or to the kernel's decapsulation, and that came out of it. If fewer come
 * out, another program or a rule of the host ends them on the way. Then, datagrams of nodes that came to the
 * decapsulation without mesh_in: by an interface without a program, or out of IPsec. Last, when a packet was
 * left to the decapsulation with its headers on, as counters.seen. */
enum { MERGER_IN, MERGER_OUT, MERGER_STRAYS, MERGER_LEFT, MERGER_ENDS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, MERGER_ENDS);
} merging SEC(".maps");

static __always_inline void count_merging(__u32 end, __u32 packets)
{
	__u64 *n = bpf_map_lookup_elem(&merging, &end);

	if (n)
		*n += packets;
}

/* How long after a packet was left to the kernel others may be on their way there, ns. */
#define ON_THE_WAY 1000000000ULL

static __always_inline void note_left(__u64 now)
{
	__u32 key = MERGER_LEFT;
	__u64 *left = bpf_map_lookup_elem(&merging, &key);

	if (left)
		*left = now;
}

/* Whether packets of this CPU are on their way to mesh_decap, which others must not overtake. What was lost
 * there never comes out, so the time decides, too. */
static __always_inline int on_the_way(__u64 now)
{
	__u32 key = MERGER_IN, out_key = MERGER_OUT, left_key = MERGER_LEFT;
	__u64 *in = bpf_map_lookup_elem(&merging, &key), *out = bpf_map_lookup_elem(&merging, &out_key);
	__u64 *left = bpf_map_lookup_elem(&merging, &left_key);

	return in && out && left && *in != *out && now < *left + ON_THE_WAY;
}

/* The number of this node. */
#define SELF 0

/* What is to become of a packet: a reason to hand it over (enum handover), or one of these. */
enum {
	ACCEPT = HANDS,
	DROPPED,  /* counted */
	NOT_OURS, /* something else than a datagram for us */
};

/* On to the next program, the TUN's queue, or the socket. */
#define LEAVE TC_ACT_UNSPEC

/* Leaves a packet to user space, and counts it. */
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
	__u32 number = forgotten(node / CHUNK), place = forgotten(node % CHUNK);
	void *chunk = bpf_map_lookup_elem(&counted, &number);

	return chunk ? bpf_map_lookup_elem(chunk, &place) : 0;
}

static __always_inline __u32 *node_of4(const void *address)
{
	struct prefix4 key;

	key.length = forgotten(32);
	__builtin_memcpy(key.address, address, 4);
	return bpf_map_lookup_elem(&prefixes4, &key);
}

static __always_inline __u32 *node_of6(const void *address)
{
	struct prefix6 key;

	key.length = forgotten(128);
	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(&prefixes6, &key);
}

/* What an address leads to that no prefix has: no node has the number. */
#define NOWHERE 0xffffU

/* Whether a shared prefix, which an address was found to be in, is behind a node, too. Of the node's shared
 * prefixes the longest may be a shorter one around this. */
static __always_inline int carries(__u32 number, __u32 found, const void *address, const void *end, int v6)
{
	const __u32 *from = address;
	struct carrier key = {};
	__u32 *length;

	if (!(found & SHARED) || (void *)(from + 1) > end)
		return 0;
	key.length = forgotten(BEFORE_ADDRESS + LENGTH_OF(found));
	key.number = forgotten(number);
	if (v6) {
		if ((void *)(from + 4) > end)
			return 0;
		key.v6 = forgotten(1);
	}
	copy_address(key.address, from, v6);
	length = bpf_map_lookup_elem(&carriers, &key);
	return length && *length == LENGTH_OF(found);
}

/* The port at which we listen at an address, as owns has it; 0: none. It is asked about what is not for
 * the first of our places. */
static __always_inline __be16 own_port(const struct settings *s, const void *address, const void *end, int v6, __be16 port)
{
	const __u32 *from = address;
	struct endpoint key = {};
	__be16 *found;

	if (!s->more || (void *)(from + 1) > end)
		return 0;
	if (v6) {
		if ((void *)(from + 4) > end)
			return 0;
		key.v6 = forgotten(1);
	}
	copy_address(key.address, from, v6);
	key.port = forgotten(port);
	found = bpf_map_lookup_elem(&owns, &key);
	return found ? *found : 0;
}

#endif
