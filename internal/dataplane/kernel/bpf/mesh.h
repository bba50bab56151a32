/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the programs and the daemon share: maps, and what is in them. bpf2go makes Go types
 * of the structs. Numbers are in the host's order unless they are __be. Pinned maps outlive
 * the daemon: whoever changes a struct here, or a map, raises layout in pins.go.
 */
#ifndef MESH_H
#define MESH_H

#include <linux/types.h>

/* Why a packet is dropped: the first of mesh.Drop, in their order. A test compares the names. */
enum drop {
	DROP_NO_ROUTE,
	DROP_TOO_BIG,
	DROP_SEND_ERROR,
	DROP_FOREIGN_SOURCE,
	DROP_UNKNOWN_SENDER,
	DROP_SPOOFED_SOURCE,
	DROP_WRONG_DESTINATION,
	DROP_WRITE_ERROR,
	DROP_TTL_EXPIRED,
	DROP_MALFORMED,
	DROPS,
};

/* Why a packet is left to user space, in both directions: handovers in counters.go, in its order. A
 * test compares the names, which status shows in lower case. */
enum handover {
	HAND_NO_ROUTE,		/* no node has the destination */
	HAND_TTL_EXPIRED,	/* user space tells its sender */
	HAND_TOO_BIG,		/* larger than the path */
	HAND_NO_UNDERLAY_ROUTE, /* to the peer */
	HAND_UNUSUAL,		/* options, another protocol, a length that does not add up */
	HAND_FROM_SOCKET,	/* it has an outer checksum, as datagrams of sockets do */
	HAND_UNKNOWN_SENDER,	/* the outer source is no node */
	HAND_FRAGMENT,		/* of the outer packet */
	HAND_TO_THIS_NODE,	/* for the TUN's own address: probes are among them */
	HAND_PLAIN_PEER,	/* to a peer that is not known to be meshd */
	HAND_CAPTURE,		/* somebody captures on the TUN */
	HAND_FOREIGN_SOURCE,	/* a pod of this host sent with an address that is not this node's */
	HAND_OUT_BY_USER,	/* what this host has set up for packets that leave would be bypassed */
	HAND_IN_BY_SOCKET,	/* the host's own rules have to decide about the sender's datagrams */
	HAND_NO_ADDRESS,	/* the peer has no address that this host can send to */
	HANDS,
};

/* What XDP writes in front of each frame that it passes on, as packet metadata: settings.mark
 * if it has taken the outer headers off, and zeros if not. Metadata crosses veths, bridges and
 * network namespaces, so it is believed only whole, and only where our XDP program stands. */
struct mark {
	__u32 words[4];
};

/* An interface that the XDP program is at, or comes to. */
struct device {
	__u32 index;	 /* 0: none, and no more behind it */
	__u8 address[6]; /* its MAC address */
	__u8 pad[2];
};

#define DEVICES 8

/* A place in the underlay. As a key of a map its port may be 0, for whichever. */
struct endpoint {
	__u8 address[16]; /* IPv4 in the first four bytes, and zeros */
	__u32 v6;	  /* without it an IPv6 address could be taken for one of IPv4 */
	__be16 port;
	__u8 pad[2];
};

/* All that is not about a peer. Replaced as a whole. What each packet needs comes first. */
struct settings {
	struct endpoint own; /* the first place where we listen, which nearly all datagrams are for */
	__u8 home4[4];	   /* our first subnet of IPv4, and its mask */
	__u8 mask4[4];	   /* without a subnet: home of ones, mask of zeros, which matches no address */
	__u8 tun4[4];	   /* the TUN's own addresses; zero: none */
	__u32 tun;	   /* its ifindex */
	__u32 mtu;	   /* of the narrowest interface on the way, for inner packets, bytes */
	__u32 outer;	   /* as mtu, but of datagrams, with their headers */
	__u32 merger;	   /* ifindex by which packets go out that are to be merged; 0: none */
	__u32 decap;	   /* ifindex of a device where the kernel delivers what it took outer headers off;
			      0: it takes none off */
	__u32 tag;	   /* of packets on their way there, see DONE; random, for each load of the programs */
	__u32 tag_before;  /* that of the meshd before, for packets on their way; tag if none */
	__be16 user_port;  /* of meshd's sockets, if the kernel itself has the mesh's port; 0: that one */
	__u8 flows;	   /* of so many packets one is counted for its flow, a power of two; 0: none. See flows.h */
	__u8 pad;
	__u8 more;	   /* owns has further places where we listen */
	__u8 watched;	   /* somebody captures on the TUN: packets out go by its queue, where
			      captures see them */
	__u8 spread;	   /* each flow has an outer source port of its own */
	__u8 shaped;	   /* the TUN's queue has a queueing discipline of somebody's: packets out
			      go through it */
	struct mark mark;  /* random, for each load of the programs */
	struct device devices[DEVICES];
	__u8 tun6[16];
	__u8 home6[16];	   /* as of IPv4 */
	__u8 mask6[16];
	struct mark before; /* that of the meshd before, for frames on their way; mark if none */
};

/* The mark of a packet that the programs sent to the kernel's decapsulation is settings.tag, and with DONE
 * if its outer headers are off already. Only packets with such a mark get from there to the TUN. A mark does
 * not leave a network namespace, and only who has CAP_NET_ADMIN can set one. The bits of a tag are those
 * that no well-known program gives a meaning: kube-proxy has 0x4000 and 0x8000 (which it drops), Cilium
 * 0x0f00, and meshd's sockets 0x1000. */
#define TAG_BITS 0xffff00feU
#define DONE 1U

/* SO_MARK of meshd's sockets: udp.Mark in Go. */
#define SOCKET_MARK 0x1000

/* How packets get to a node: by one of its addresses, and one of ours of the same family. */
struct path {
	__u8 to[16]; /* as endpoint.address */
	__u8 from[16];
	__be16 port; /* that the node listens on; 0: there is no path */
	__be16 from_port;
	__u8 v6;
	/* It finishes checksums that we leave to a device, and takes UDP without one. */
	__u8 finishes;
	__u8 out_by_user; /* the host's own policy has to see what is sent to it */
	__u8 pad;
	__u32 mtu; /* largest inner packets that reach it, bytes; 0: what settings allow */
	__u32 sum; /* of the node's number and all words before, by which a copy is known to be whole */
} __attribute__((aligned(8)));

#define NAME 64

/* A node of the mesh, by its number. Number 0 is this node. */
struct node {
	__u8 name[NAME];  /* for a daemon that takes over; ends with zeros */
	struct path path; /* where its packets go now */
};

/* Whose an outer source address is. */
struct sender {
	__u32 number;	/* of the node */
	__be16 port;	/* that the node listens on at this address */
	__u8 by_socket; /* its datagrams are left to the socket */
	__u8 pad;
};

/* What a prefix leads to is the number of a node in 16 bits. In a prefix that several nodes have, that is
 * the one that carries its packets; the prefix's length is beside it, and carriers has all of them. */
#define SHARED 0x80000000U
#define NUMBER_OF(found) ((found) & 0xffff)
#define LENGTH_OF(found) ((found) >> 16 & 0xff)

struct prefix4 {
	__u32 length;
	__u8 address[4];
};

struct prefix6 {
	__u32 length;
	__u8 address[16];
};

/* A shared prefix of one node. Its length counts from number on. */
struct carrier {
	__u32 length;
	__u32 number;
	__u32 v6;
	__u8 address[16]; /* as endpoint.address */
};

#define BEFORE_ADDRESS 64 /* bits of number and v6 */

/* What is counted for a peer, on one CPU. Bytes and packets are inner ones. */
struct counters {
	__u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
	__u64 seen; /* when the last one came in, bpf_ktime_get_boot_ns */
	__u64 drops[DROPS];
	__u64 whole; /* when the last superpacket came that was whole already, as seen. Not a count */
	__u64 left;  /* when the last datagram was left to the socket for what its sender is, as seen */
};

/* Inner packets between two addresses. Local is this node's side. */
struct flow {
	__u8 local[16]; /* as endpoint.address */
	__u8 remote[16];
	__be16 local_port; /* 0: the protocol has none, or it is about fragments */
	__be16 remote_port;
	__u8 protocol; /* of the inner IP header */
	__u8 v6;
	__u16 number; /* of the peer */
};

/* What is counted for a flow, by all CPUs. Bytes and packets are inner ones. */
struct flow_count {
	__u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
};

#endif
