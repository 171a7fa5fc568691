/* SPDX-License-Identifier: (MIT OR GPL-2.0-only)
 *
 * The kernel half of the Azure proxy agent: who connects to the metadata endpoints is written down on the socket, and the
 * connection goes to the agent.
 *
 *   connect4/6            record on the client's socket, destination rewritten        (sk_who)
 *   sock_ops              SYN: record published; ESTABLISHED: onto the accepted one   (flows, peer_who)
 *   getpeername4/6        the client sees the address that it asked for
 *   bind4/6, post_bind4/6 nobody but the agent listens where the redirect ends
 *   egress                backstop for packets that went around connect(); attached only when asked for
 *
 * Every program looks at a constant port first: traffic that is none of our business leaves after a few instructions, without
 * a helper or a map. Decisions about requests are not made here; this side only attributes, redirects, and refuses what it
 * cannot attribute.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "layout.h"
#include "maps.h"
#include "identify.h"

#define SOCK_STREAM 1
#define ALLOW 1
#define REFUSE 0 /* EPERM */

static __always_inline __u32 destination_of(__be32 ip, __be16 port)
{
	if (port == bpf_htons(HTTP_PORT)) {
		if (ip == bpf_htonl(IMDS_IP))
			return DESTINATION_IMDS;
		if (ip == bpf_htonl(WIRESERVER_IP))
			return DESTINATION_WIRESERVER;
	} else if (port == bpf_htons(HOSTGA_PORT)) {
		if (ip == bpf_htonl(WIRESERVER_IP))
			return DESTINATION_HOSTGA;
	} else if (port == bpf_htons(LISTENER_PORT)) {
		/* connect() to "any" goes to loopback: without this, such a connection would have no record of its own. */
		if (ip == bpf_htonl(LISTENER_IP) || ip == 0)
			return DESTINATION_LISTENER;
	}
	return DESTINATION_OTHER;
}

static __always_inline __u32 target_bits(__u32 destination)
{
	__u32 *bits = bpf_map_lookup_elem(&targets, &destination);
	return bits ? *bits : 0;
}

static __always_inline __u64 agent_netns(void)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	if (!c)
		return 0;
	return no_ns_ops ? c->agent_netns_inode : c->agent_netns;
}

/* In audit the host serves anyway, so nothing is redirected to an agent that is gone. In enforce it would refuse (S-03). */
static __always_inline int given_up(__u32 bits)
{
	__u32 zero = 0;
	if (bits & TARGET_ENFORCE)
		return 0;
	__u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
	return beat && bpf_ktime_get_ns() > *(volatile __u64 *)beat + HEARTBEAT_LIMIT_NS;
}

static __always_inline int is_exempt(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sk_exempt, sk, 0, 0) != 0;
}

/* ---- connect ---- */

enum verdict { VERDICT_REFUSE, VERDICT_PASS, VERDICT_REWRITE };

static __always_inline struct record *new_record(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	struct record *r = bpf_sk_storage_get(&sk_who, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (r)
		identify(r, ctx, sk);
	else
		count(COUNT_NO_MEMORY);
	return r;
}

/* Not redirected: refused in enforce, let through in audit, and noted for the agent (S-08). */
static __always_inline enum verdict note_foreign(struct record *r, __u32 bits)
{
	enum verdict v = bits & TARGET_ENFORCE ? VERDICT_REFUSE : VERDICT_PASS;
	count(v == VERDICT_REFUSE ? COUNT_FOREIGN_REFUSED : COUNT_FOREIGN_PASSED);
	if (r)
		r->route = v == VERDICT_REFUSE ? ROUTE_REFUSED : ROUTE_PASSED;
	if (!r || bpf_map_push_elem(&foreign, r, BPF_ANY))
		count(COUNT_FOREIGN_LOST);
	return v;
}

static __always_inline enum verdict decide(struct bpf_sock_addr *ctx, __u32 destination, __be32 ip, __be16 port, __u8 flags)
{
	__u32 bits = 0;
	if (ctx->type != SOCK_STREAM)
		return VERDICT_PASS;
	if (destination != DESTINATION_LISTENER) {
		bits = target_bits(destination);
		if (!(bits & TARGET_REDIRECT))
			return VERDICT_PASS;
	}
	/* Loaded once: clang would keep the address of the member, which the verifier does not allow. */
	struct bpf_sock *sk = ctx->sk;
	if (is_exempt(sk)) {
		count(COUNT_EXEMPT);
		return VERDICT_PASS;
	}

	if (destination != DESTINATION_LISTENER && given_up(bits)) {
		count(COUNT_GIVEN_UP);
		return VERDICT_PASS;
	}

	__u64 netns = netns_of(ctx, sk);
	int elsewhere = netns != agent_netns();
	/* 127.0.0.1 is somebody else there (S-08). */
	if (elsewhere && destination == DESTINATION_LISTENER)
		return VERDICT_PASS;

	struct record *r = new_record(ctx, sk);
	if (r) {
		r->netns = netns;
		r->original_ip = ip;
		r->original_port = port;
		r->flags |= flags;
	}
	if (elsewhere)
		return note_foreign(r, bits);
	if (!r)
		return VERDICT_REFUSE;
	if (destination == DESTINATION_LISTENER) {
		r->route = ROUTE_DIRECT;
		count(COUNT_DIRECT);
		return VERDICT_PASS;
	}
	r->route = ROUTE_REDIRECTED;
	count(COUNT_REDIRECTED);
	return VERDICT_REWRITE;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	__be32 ip = ctx->user_ip4;
	__be16 port = ctx->user_port;
	__u32 destination = destination_of(ip, port);
	if (destination == DESTINATION_OTHER)
		return ALLOW;

	enum verdict v = decide(ctx, destination, ip, port, 0);
	if (v == VERDICT_REWRITE) {
		ctx->user_ip4 = bpf_htonl(LISTENER_IP);
		ctx->user_port = bpf_htons(LISTENER_PORT);
	}
	return v != VERDICT_REFUSE;
}

/* ::ffff:a.b.c.d is an IPv4 connection (Java and every dual-stack client: S-01), and so may be :: (see destination_of). */
SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	__be16 port = ctx->user_port;
	if (port != bpf_htons(HTTP_PORT) && port != bpf_htons(HOSTGA_PORT) && port != bpf_htons(LISTENER_PORT))
		return ALLOW;
	__u32 word2 = ctx->user_ip6[2];
	__be32 ip = ctx->user_ip6[3];
	if (ctx->user_ip6[0] || ctx->user_ip6[1] || (word2 != bpf_htonl(0xffff) && (word2 || ip)))
		return ALLOW;
	__u32 destination = destination_of(ip, port);
	if (destination == DESTINATION_OTHER)
		return ALLOW;

	enum verdict v = decide(ctx, destination, ip, port, RECORD_MAPPED_V6);
	if (v == VERDICT_REWRITE) {
		ctx->user_ip6[3] = bpf_htonl(LISTENER_IP);
		ctx->user_port = bpf_htons(LISTENER_PORT);
	}
	return v != VERDICT_REFUSE;
}

/* ---- hand-over from the client's socket to the accepted one ---- */

/* The source port is known and nothing has left yet (SYN), or the SYN-ACK has come and the ACK has not left. */
static __always_inline void publish(struct bpf_sock_ops *ops)
{
	/* The v4 members are right for v4-mapped sockets too. */
	if (ops->remote_ip4 != bpf_htonl(LISTENER_IP) || ops->remote_port != bpf_htonl(LISTENER_PORT))
		return;
	struct bpf_sock *sk = ops->sk;
	if (!sk)
		return;
	struct flow key = { .netns = netns_of(ops, sk), .ip = ops->local_ip4, .port = ops->local_port };
	struct record *r = bpf_sk_storage_get(&sk_who, sk, 0, 0);
	if (r && (r->route == ROUTE_REDIRECTED || r->route == ROUTE_DIRECT))
		bpf_map_update_elem(&flows, &key, r, BPF_ANY);
	else
		bpf_map_delete_elem(&flows, &key); /* came here unseen: must not inherit what a failed connection left (S-07) */
}

static __always_inline void hand_over(struct bpf_sock_ops *ops)
{
	if (ops->local_port != LISTENER_PORT || ops->local_ip4 != bpf_htonl(LISTENER_IP))
		return;
	struct bpf_sock *sk = ops->sk;
	if (!sk)
		return;
	struct flow key = {
		.netns = netns_of(ops, sk), .ip = ops->remote_ip4, .port = (__u16)bpf_ntohl(ops->remote_port)
	};
	struct record *r = bpf_map_lookup_elem(&flows, &key);
	if (!r)
		return;
	if (bpf_sk_storage_get(&peer_who, sk, r, BPF_SK_STORAGE_GET_F_CREATE))
		count(COUNT_HANDED_OVER);
	bpf_map_delete_elem(&flows, &key);
}

/* Returns 1 always and leaves `reply` alone: other sock_ops programs of the machine may have set it. */
SEC("sockops")
int sock_ops(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		publish(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		hand_over(ops);
		break;
	}
	return 1;
}

/* ---- what the client sees ---- */

/* Also runs inside accept() on the listener's side, where the socket has no sk_who. */
static __always_inline struct record *redirected(struct bpf_sock *sk)
{
	struct record *r = bpf_sk_storage_get(&sk_who, sk, 0, 0);
	return r && r->route == ROUTE_REDIRECTED ? r : 0;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(LISTENER_PORT) || ctx->user_ip4 != bpf_htonl(LISTENER_IP))
		return ALLOW;
	struct record *r = redirected(ctx->sk);
	if (r) {
		ctx->user_ip4 = r->original_ip;
		ctx->user_port = r->original_port;
	}
	return ALLOW;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(LISTENER_PORT) || ctx->user_ip6[3] != bpf_htonl(LISTENER_IP) ||
	    ctx->user_ip6[2] != bpf_htonl(0xffff))
		return ALLOW;
	struct record *r = redirected(ctx->sk);
	if (r) {
		ctx->user_ip6[3] = r->original_ip;
		ctx->user_port = r->original_port;
	}
	return ALLOW;
}

/* ---- guard of the listener's port ---- */

/* Loopback and wildcard addresses take connections to the listener away; a service on another address may have the port. */
static __always_inline int in_the_way4(__be32 ip)
{
	return ip == 0 || (ip & bpf_htonl(0xff000000)) == bpf_htonl(LISTENER_IP & 0xff000000);
}

static __always_inline int in_the_way6(__u32 a, __u32 b, __u32 c, __be32 d)
{
	if (a || b)
		return 0;
	return c == bpf_htonl(0xffff) ? in_the_way4(d) : !c && (!d || d == bpf_htonl(1));
}

/* The service manager makes the listener of a socket unit: process 1 itself or, so that the socket belongs to the unit's cgroup, a
 * child that has executed nothing since. The same `struct file`, not the same program: somebody who runs systemd is not it. */
static __always_inline int is_service_manager(void)
{
	if (bpf_get_current_pid_tgid() >> 32 == 1)
		return 1;
	if (no_task_reads)
		return 0;
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	return exe && BPF_CORE_READ(parent, tgid) == 1 && exe == BPF_CORE_READ(parent, mm, exe_file);
}

/* Containers with a network namespace of their own have a port 3080 of their own. 0: an old kernel could not tell. */
static __always_inline int guard(struct bpf_sock *sk, __u64 netns)
{
	if (netns != agent_netns() && netns != 0)
		return ALLOW;
	if (is_exempt(sk))
		return ALLOW;
	count(COUNT_BIND_REFUSED);
	return REFUSE;
}

/* As above; the service manager's listener is marked, so that post_bind lets it pass, too. */
static __always_inline int guard_bind(struct bpf_sock *sk, __u64 netns)
{
	if (is_service_manager())
		bpf_sk_storage_get(&sk_exempt, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	return guard(sk, netns);
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(LISTENER_PORT) || ctx->type != SOCK_STREAM || !in_the_way4(ctx->user_ip4))
		return ALLOW;
	struct bpf_sock *sk = ctx->sk;
	return guard_bind(sk, netns_of(ctx, sk));
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(LISTENER_PORT) || ctx->type != SOCK_STREAM ||
	    !in_the_way6(ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]))
		return ALLOW;
	struct bpf_sock *sk = ctx->sk;
	return guard_bind(sk, netns_of(ctx, sk));
}

/* bind() to port 0 where the range of ephemeral ports contains ours: only here the port is known. Kernels before 5.15 cannot tell
 * namespaces apart here and do without; by default the range begins far above. */
SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *sk)
{
	if (no_ns_ops || sk->src_port != LISTENER_PORT || sk->type != SOCK_STREAM || !in_the_way4(sk->src_ip4))
		return ALLOW;
	return guard(sk, bpf_get_netns_cookie(sk));
}

SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *sk)
{
	if (no_ns_ops || sk->src_port != LISTENER_PORT || sk->type != SOCK_STREAM ||
	    !in_the_way6(sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]))
		return ALLOW;
	return guard(sk, bpf_get_netns_cookie(sk));
}

/* ---- backstop ---- */

#define ETH_P_IP 0x0800
#define IP_FRAGMENT 0x3fff /* offset and "more fragments" */
#define TCP_SYN 0x02

struct ip_head {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__be32 saddr, daddr;
};

struct tcp_head {
	__be16 source, dest;
	__be32 seq, ack;
	__u8 offset, flags;
};

/* Raw sockets, connections older than the attach, and whatever else reaches a guarded destination without a redirect. Packets
 * with neither SYN nor payload pass: they carry no request, and the kernel sends them for sockets that are already gone. */
SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	struct ip_head ip;
	struct tcp_head tcp;
	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return ALLOW;
	if (ip.daddr != bpf_htonl(IMDS_IP) && ip.daddr != bpf_htonl(WIRESERVER_IP))
		return ALLOW;
	if (ip.protocol != IPPROTO_TCP)
		return ALLOW;

	__u32 head = (ip.version_ihl & 15) * 4, bits;
	if ((ip.fragment & bpf_htons(IP_FRAGMENT)) || bpf_skb_load_bytes(skb, head, &tcp, sizeof(tcp))) {
		/* No ports to look at: the strictest destination of that address counts. */
		bits = ip.daddr == bpf_htonl(IMDS_IP) ? target_bits(DESTINATION_IMDS)
						      : target_bits(DESTINATION_WIRESERVER) | target_bits(DESTINATION_HOSTGA);
	} else {
		__u32 destination = destination_of(ip.daddr, tcp.dest);
		if (destination >= DESTINATIONS)
			return ALLOW;
		if (!(tcp.flags & TCP_SYN) && skb->len <= head + (tcp.offset >> 4) * 4)
			return ALLOW;
		bits = target_bits(destination);
	}
	if (!(bits & TARGET_REDIRECT) || given_up(bits))
		return ALLOW;

	struct bpf_sock *sk = skb->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk) {
		if (is_exempt(sk))
			return ALLOW;
		struct record *r = bpf_sk_storage_get(&sk_who, sk, 0, 0);
		if (r && r->route == ROUTE_PASSED && !(bits & TARGET_ENFORCE))
			return ALLOW;
	}
	count(COUNT_EGRESS_DROPPED);
	return REFUSE;
}

char _license[] SEC("license") = "Dual MIT/GPL";
