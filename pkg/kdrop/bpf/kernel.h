/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What kdrop.c needs of the kernel, declared here so that it compiles without kernel or libbpf headers.
 *
 * The structs hold only the fields that are read. preserve_access_index makes each access a CO-RE relocation:
 * the loader looks the field up in the BTF of the running kernel, whatever its offset and its neighbours are.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef __u16 __be16; /* network byte order */

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

/* Map definitions that loaders read from BTF. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_RINGBUF 27

/* bpf-helpers(7); the numbers are kernel ABI. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113; /* 5.5 */
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;				    /* 5.8 */
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;	    /* 5.8 */
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;		    /* 5.8 */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(x) ((__be16)__builtin_bswap16(x))
#else
#define htons(x) ((__be16)(x))
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
};

struct net_device {
	char name[16];
	int ifindex;
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned int len;
	int skb_iif;
	__be16 protocol;
	__u16 network_header; /* offsets from head */
	__u16 mac_header;     /* 0xffff: not set */
	unsigned int tail;    /* an offset on 64-bit kernels */
	unsigned char *head;
};

#pragma clang attribute pop

/* The context of a raw tracepoint: its TP_PROTO arguments, each widened to 64 bits. */
struct raw_tracepoint_args {
	__u64 args[0];
};
