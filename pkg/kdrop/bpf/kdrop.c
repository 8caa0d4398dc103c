// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Reports packets of given flows that the kernel drops: a filter on the tracepoint skb:kfree_skb.
 *
 * The tracepoint fires for every drop on the machine. Only a packet whose addresses, protocol and ports are in
 * the map "flows" leaves the kernel, be it the packet itself, the one inside a tunnel, or the one that an ICMP
 * error quotes. User space puts both directions of a flow into the map, so a packet costs a few lookups.
 *
 * Headers are read with bpf_probe_read_kernel from skb->head, never behind skb->tail: what is not in the linear
 * area is not looked at. All loops have constant bounds.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021AD 0x88a8

#define ETH_HLEN 14
#define SNAPLEN 192 /* bytes from the network header */

/* Kinds of keys; keys_linux.go has the same. */
#define KIND_FLOW 0	/* a packet with its ports */
#define KIND_FRAGMENT 1 /* a later fragment: no ports */
#define KIND_NEIGH 2	/* ARP or ND about the address dst */

/* Bits of "wild": which lookups with less than a whole key can find anything; keys_linux.go has the same. */
#define WILD_SPORT 1
#define WILD_DPORT 2
#define WILD_PORTS 4
#define WILD_PROTO 8

/* Bits of event.flags; event_linux.go has the same. */
#define FLAG_INNER 1  /* the packet was inside a tunnel */
#define FLAG_QUOTED 2 /* the packet was quoted by an ICMP error */
#define FLAG_NEIGH 4  /* ARP or ND */
#define FLAG_MAC 8    /* mac is valid */

/* Addresses are IPv6, or IPv4 mapped into it. Ports are in network byte order; an echo's identifier is both. */
struct key {
	__u8 src[16];
	__u8 dst[16];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 kind;
	__u8 pad[2];
};

struct event {
	__u64 time;	/* CLOCK_BOOTTIME, ns */
	__u64 location; /* return address of the call that dropped it */
	__u32 reason;	/* enum skb_drop_reason */
	__u32 ifindex;	/* 0: unknown */
	__u32 iif;	/* interface that it came in by, 0: none */
	__u32 netns;	/* inode, 0: unknown */
	__u32 len;	/* skb->len */
	__u32 flow;	/* value in "flows" */
	__be16 protocol;
	__u16 offset; /* of the IP (or ARP) header that matched, from the network header */
	__u16 caplen; /* valid bytes of packet */
	__u8 flags;
	__u8 pad;
	__u8 dev[16];
	__u8 mac[16]; /* the Ethernet header's 14 bytes */
	__u8 packet[SNAPLEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* set by user space */
	__type(key, struct key);
	__type(value, __u32);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* set by user space */
} events SEC(".maps");

/* Set before the program is loaded. */
const volatile __u32 wild;	/* WILD_* */
const volatile __u32 consumed;	/* SKB_CONSUMED, or a value that is no reason */
const volatile __u32 tapped;	/* SKB_DROP_REASON_PACKET_SOCK_ERROR, or a value that is no reason */
const volatile __u32 has_rx_sk; /* the tracepoint has its fourth argument (6.11) */

__u64 lost; /* matched, but the ring was full */

/* Makes the type known to bpf2go. */
const struct event *unused_event __attribute__((unused));

struct cursor {
	const void *head;
	__u32 end;     /* first offset behind the linear data */
	__u32 off;     /* of the layer 3 header */
	__u32 l4;      /* of what follows it */
	__be16 proto;  /* EtherType of what is at off */
	__u8 flags;    /* FLAG_* */
	__u8 error;    /* an ICMP error: a quotation follows */
	__u8 fragment; /* not a first fragment */
};

static __always_inline int load(const struct cursor *c, __u32 off, void *to, __u32 size)
{
	if (off > c->end || c->end - off < size)
		return -1;
	return bpf_probe_read_kernel(to, size, c->head + off);
}

static __always_inline void mapped(__u8 *to, const __u8 *ip4)
{
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, ip4, 4);
}

static __always_inline __u32 *find(struct key *k)
{
	__be16 sport = k->sport, dport = k->dport;
	__u32 *v = bpf_map_lookup_elem(&flows, k);

	if (!v && (wild & WILD_SPORT)) {
		k->sport = 0;
		v = bpf_map_lookup_elem(&flows, k);
		k->sport = sport;
	}
	if (!v && (wild & WILD_DPORT)) {
		k->dport = 0;
		v = bpf_map_lookup_elem(&flows, k);
		k->dport = dport;
	}
	if (!v && (wild & (WILD_PORTS | WILD_PROTO))) {
		__u8 proto = k->proto;

		k->sport = k->dport = 0;
		v = bpf_map_lookup_elem(&flows, k);
		if (!v && (wild & WILD_PROTO)) {
			k->proto = 0;
			v = bpf_map_lookup_elem(&flows, k);
			k->proto = proto;
		}
		k->sport = sport;
		k->dport = dport;
	}
	return v;
}

/* ARP and ND are about one address: the one asked for, or the one that answers. */
static __always_inline __u32 *find_neigh(struct cursor *c, struct key *k)
{
	__builtin_memset(k->src, 0, sizeof(k->src));
	k->sport = k->dport = 0;
	k->proto = 0;
	k->kind = KIND_NEIGH;
	c->flags |= FLAG_NEIGH;
	return bpf_map_lookup_elem(&flows, k);
}

/* RFC 826, for IPv4 on Ethernet. */
static __always_inline __u32 *arp(struct cursor *c, struct key *k)
{
	struct {
		__be16 hardware, protocol;
		__u8 hlen, plen;
		__be16 op;
		__u8 sha[6], spa[4], tha[6], tpa[4];
	} a;
	__u32 *v;

	if (load(c, c->off, &a, sizeof(a)) || a.protocol != htons(ETH_P_IP) || a.hlen != 6 || a.plen != 4)
		return 0;
	mapped(k->dst, a.tpa);
	v = find_neigh(c, k);
	if (v)
		return v;
	mapped(k->dst, a.spa);
	return find_neigh(c, k);
}

static __always_inline int ip4(struct cursor *c, struct key *k)
{
	struct {
		__u8 vihl, tos;
		__be16 len, id, frag;
		__u8 ttl, proto;
		__be16 csum;
		__u8 src[4], dst[4];
	} h;
	__u32 hlen;

	if (load(c, c->off, &h, sizeof(h)) || h.vihl >> 4 != 4)
		return -1;
	hlen = (h.vihl & 15) * 4;
	if (hlen < sizeof(h))
		return -1;
	mapped(k->src, h.src);
	mapped(k->dst, h.dst);
	k->proto = h.proto;
	c->fragment = (h.frag & htons(0x1fff)) != 0;
	c->l4 = c->off + hlen;
	return 0;
}

#define MAX_EXTENSIONS 6

/* RFC 8200: hop-by-hop 0, routing 43, fragment 44, authentication 51, destination 60. */
static __always_inline int ip6(struct cursor *c, struct key *k)
{
	struct {
		__u8 ver[4];
		__be16 len;
		__u8 next, hops;
		__u8 src[16], dst[16];
	} h;
	struct {
		__u8 next, len;
		__be16 frag;
	} x;
	__u32 off = c->off + sizeof(h);
	__u8 next;

	if (load(c, c->off, &h, sizeof(h)) || h.ver[0] >> 4 != 6)
		return -1;
	__builtin_memcpy(k->src, h.src, 16);
	__builtin_memcpy(k->dst, h.dst, 16);
	next = h.next;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60)
			break;
		if (c->fragment || load(c, off, &x, sizeof(x)))
			break;
		if (next == 44) {
			c->fragment = (x.frag & htons(0xfff8)) != 0;
			off += 8;
		} else {
			off += next == 51 ? (x.len + 2) * 4 : (x.len + 1) * 8;
		}
		next = x.next;
	}
	k->proto = next;
	c->l4 = off;
	return 0;
}

/* Fills in the ports. Says by c->error that a quotation follows, by its result that this is ND. */
static __always_inline int ports(struct cursor *c, struct key *k)
{
	__u8 b[8];

	switch (k->proto) {
	case 6:	  /* TCP */
	case 17:  /* UDP */
	case 33:  /* DCCP */
	case 132: /* SCTP */
	case 136: /* UDP-Lite */
		if (load(c, c->l4, b, 4))
			return 0;
		__builtin_memcpy(&k->sport, b, 2);
		__builtin_memcpy(&k->dport, b + 2, 2);
		return 0;
	case 1: /* RFC 792: echo reply 0, echo 8; unreachable, quench, redirect, time exceeded, parameter */
		if (load(c, c->l4, b, 8))
			return 0;
		c->error = b[0] == 3 || b[0] == 4 || b[0] == 5 || b[0] == 11 || b[0] == 12;
		if (b[0] != 0 && b[0] != 8)
			return 0;
		break;
	case 58: /* RFC 4443: errors 1 to 4, echo 128, echo reply 129; RFC 4861: NS 135, NA 136 */
		if (load(c, c->l4, b, 8))
			return 0;
		if (b[0] == 135 || b[0] == 136)
			return 1;
		c->error = b[0] >= 1 && b[0] <= 4;
		if (b[0] != 128 && b[0] != 129)
			return 0;
		break;
	default:
		return 0;
	}
	__builtin_memcpy(&k->sport, b + 4, 2);
	__builtin_memcpy(&k->dport, b + 4, 2);
	return 0;
}

/*
 * Moves the cursor to the packet inside: behind an ICMP error's header, in IPIP, in anything behind UDP that
 * has the I flag of a VXLAN header (RFC 7348 section 5) where that one would be. The port is not asked: if it
 * is no VXLAN, what follows is no packet of a flow either.
 */
static __always_inline int descend(struct cursor *c, const struct key *k)
{
	__u8 vxlan[8];

	if (c->fragment)
		return -1;
	if (c->error) {
		c->flags |= FLAG_QUOTED;
		c->off = c->l4 + 8;
		return 0;
	}
	switch (k->proto) {
	case 4:
		c->proto = htons(ETH_P_IP);
		c->off = c->l4;
		break;
	case 41:
		c->proto = htons(ETH_P_IPV6);
		c->off = c->l4;
		break;
	case 17:
		if (load(c, c->l4 + 8, vxlan, sizeof(vxlan)) || !(vxlan[0] & 8))
			return -1;
		if (load(c, c->l4 + 16 + 12, &c->proto, 2))
			return -1;
		c->off = c->l4 + 16 + ETH_HLEN;
		break;
	default:
		return -1;
	}
	c->flags |= FLAG_INNER;
	return 0;
}

#define MAX_TAGS 2

static __always_inline void untag(struct cursor *c)
{
	for (int i = 0; i < MAX_TAGS; i++) {
		if (c->proto != htons(ETH_P_8021Q) && c->proto != htons(ETH_P_8021AD))
			return;
		if (load(c, c->off + 2, &c->proto, 2))
			return;
		c->off += 4;
	}
}

/* Outer packet, its quotation, the tunnel in that, and what is in there. */
#define MAX_DEPTH 4

static __always_inline __u32 *match(struct cursor *c)
{
	struct key k = {};
	__u32 *v;

	for (int depth = 0; depth < MAX_DEPTH; depth++) {
		c->error = c->fragment = 0;
		k.sport = k.dport = 0;
		k.kind = KIND_FLOW;
		untag(c);
		if (c->proto == htons(ETH_P_ARP))
			return arp(c, &k);
		if (c->proto == htons(ETH_P_IP)) {
			if (ip4(c, &k))
				return 0;
		} else if (c->proto != htons(ETH_P_IPV6) || ip6(c, &k)) {
			return 0;
		}
		if (c->fragment) {
			k.kind = KIND_FRAGMENT;
		} else if (ports(c, &k)) {
			if (load(c, c->l4 + 8, k.dst, 16))
				return 0;
			return find_neigh(c, &k);
		}
		v = find(&k);
		if (v)
			return v;
		if (descend(c, &k))
			return 0;
	}
	return 0;
}

/* The least inode number of a namespace: PROC_DYNAMIC_FIRST, and a few fixed ones below it since 6.18. */
#define MIN_INUM 0xeffffff0

static __always_inline __u32 netns_of(struct net *const *slot)
{
	struct net *net = 0;
	__u32 inum = 0;

	if (bpf_probe_read_kernel(&net, sizeof(net), slot) || !net)
		return 0;
	if (bpf_probe_read_kernel(&inum, sizeof(inum), &net->ns.inum))
		return 0;
	return inum >= MIN_INUM ? inum : 0;
}

static __always_inline __u32 netns_of_sock(const struct sock *sk)
{
	return sk ? netns_of(&sk->__sk_common.skc_net.net) : 0;
}

/*
 * Where it happened. skb->dev shares its place with other things while a packet waits in a socket or in a tree,
 * so it counts only if it leads to the inode of a namespace.
 */
static __always_inline void place(struct event *e, const struct sk_buff *skb, struct raw_tracepoint_args *ctx)
{
	struct net_device *dev = 0;
	struct sock *sk = 0;

	e->ifindex = 0;
	__builtin_memset(e->dev, 0, sizeof(e->dev));
	bpf_probe_read_kernel(&dev, sizeof(dev), &skb->dev);
	e->netns = dev ? netns_of(&dev->nd_net.net) : 0;
	if (e->netns) {
		bpf_probe_read_kernel(&e->ifindex, sizeof(e->ifindex), &dev->ifindex);
		bpf_probe_read_kernel(e->dev, sizeof(e->dev), &dev->name);
		return;
	}
	bpf_probe_read_kernel(&sk, sizeof(sk), &skb->sk);
	e->netns = netns_of_sock(sk);
	if (!e->netns && has_rx_sk)
		e->netns = netns_of_sock((struct sock *)ctx->args[3]);
}

static __always_inline void bytes(struct event *e, const struct sk_buff *skb, const struct cursor *c, __u32 network)
{
	__u64 n = (__u32)(c->end - network);
	__u16 mac = 0xffff;

	/* hides where n comes from, so that the register compared is the register passed: verifiers need that */
	asm volatile("" : "+r"(n));
	if (n > SNAPLEN)
		n = SNAPLEN;
	e->caplen = bpf_probe_read_kernel(e->packet, n, c->head + network) ? 0 : n;
	bpf_probe_read_kernel(&mac, sizeof(mac), &skb->mac_header);
	/* on the way out of IP the link header is not written yet; below layer 2 it lies before this one */
	if (mac == 0xffff || (__u32)mac + ETH_HLEN > network)
		return;
	if (!bpf_probe_read_kernel(e->mac, ETH_HLEN, c->head + mac))
		e->flags |= FLAG_MAC;
}

SEC("raw_tracepoint/kfree_skb")
int kfree_skb(struct raw_tracepoint_args *ctx)
{
	const struct sk_buff *skb = (const struct sk_buff *)ctx->args[0];
	__u32 reason = ctx->args[2];
	struct cursor c = {};
	__u16 network = 0;
	struct event *e;
	__u32 *flow;

	/* a full packet tap drops copies, perhaps our own taps as many as there are packets */
	if (reason == consumed || reason == tapped)
		return 0;
	if (bpf_probe_read_kernel(&c.head, sizeof(c.head), &skb->head) ||
	    bpf_probe_read_kernel(&c.end, sizeof(c.end), &skb->tail) ||
	    bpf_probe_read_kernel(&network, sizeof(network), &skb->network_header) ||
	    bpf_probe_read_kernel(&c.proto, sizeof(c.proto), &skb->protocol))
		return 0;
	if (network >= c.end)
		return 0;
	c.off = network;
	flow = match(&c);
	if (!flow)
		return 0;

	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	e->time = bpf_ktime_get_boot_ns();
	e->location = ctx->args[1];
	e->reason = reason;
	e->flow = *flow;
	e->offset = c.off - network;
	e->flags = c.flags;
	e->pad = 0;
	bpf_probe_read_kernel(&e->protocol, sizeof(e->protocol), &skb->protocol);
	bpf_probe_read_kernel(&e->len, sizeof(e->len), &skb->len);
	bpf_probe_read_kernel(&e->iif, sizeof(e->iif), &skb->skb_iif);
	place(e, skb, ctx);
	bytes(e, skb, &c, network);
	bpf_ringbuf_submit(e, 0);
	return 0;
}
