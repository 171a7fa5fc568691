/* SPDX-License-Identifier: (MIT OR GPL-2.0-only)
 *
 * The maps, and the switches that the loader sets before loading.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "layout.h"

/* Missing features of older kernels. They are constants for the verifier: dead branches are cut off before helpers are checked,
 * so a helper that the kernel lacks does no harm behind one of these. */
const volatile __u32 no_ns_ops = 0;     /* bpf_get_netns_cookie() is missing in sock_ops (before 5.15): use inode numbers */
const volatile __u32 no_task_reads = 0; /* bpf_probe_read_kernel() is refused (lockdown=confidentiality) */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* TARGET_* bits per enum destination. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DESTINATIONS);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

/* On the client's socket: who connected. Written at connect(), dies with the socket (S-04, S-06). */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} sk_who SEC(".maps");

/* On the accepted socket: who is on the other side. Read by user space, by file descriptor. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct record);
} peer_who SEC(".maps");

/* On the agent's own sockets, one by one, by file descriptor, from user space only (S-10); and on the listener that the service
 * manager makes. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} sk_exempt SEC(".maps");

/* Between SYN and ESTABLISHED of one handshake over loopback: microseconds. Nothing is kept here, so its size only bounds the
 * handshakes under way; an entry that is lost all the same is published again when the SYN-ACK arrives. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow);
	__type(value, struct record);
} flows SEC(".maps");

/* When the agent last said that it lives, ns of CLOCK_MONOTONIC. A map of its own: one word, written as one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

/* Connections to guarded destinations from other network namespaces, until the agent takes them out (S-08). */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 512);
	__type(value, struct record);
} foreign SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);
	if (n)
		__sync_fetch_and_add(n, 1);
}
