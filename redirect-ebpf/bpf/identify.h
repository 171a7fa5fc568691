/* SPDX-License-Identifier: (MIT OR GPL-2.0-only)
 *
 * Fills in a record: who is the current task, and whose is the socket. Every member is written each time, because a socket can
 * connect more than once and its storage stays.
 */
#pragma once
#include <bpf/bpf_core_read.h>
#include "kernel.h"
#include "maps.h"

/* Inode number of the socket's network namespace: the substitute for the cookie before 5.15. 0 if it is not a TCP socket. */
static __always_inline __u64 netns_inode(struct bpf_sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	return tcp ? BPF_CORE_READ(tcp, inet_conn.icsk_inet.sk.__sk_common.skc_net.net, ns.inum) : 0;
}

/* What tells network namespaces apart, for every context that has a helper for it. */
#define netns_of(ctx, sk) (no_ns_ops ? netns_inode(sk) : bpf_get_netns_cookie(ctx))

static __always_inline void identify_exe(struct record *r, struct task_struct *task)
{
	/* The thread's mm, not the leader's: a leader that has exited has none while its threads live on. */
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	if (!inode)
		return;
	r->exe_inode = BPF_CORE_READ(inode, i_ino);
	r->exe_generation = BPF_CORE_READ(inode, i_generation);
	r->exe_dev = BPF_CORE_READ(inode, i_sb, s_dev);

	struct inode___from_6_11 *split = (void *)inode;
	struct inode___to_6_10 *hidden = (void *)inode;
	struct inode___to_6_5 *plain = (void *)inode;
	long long time[2] = {};
	if (bpf_core_field_exists(split->i_ctime_sec)) {
		time[0] = BPF_CORE_READ(split, i_ctime_sec);
		time[1] = BPF_CORE_READ(split, i_ctime_nsec) & 0x7fffffff; /* bit 31 is I_CTIME_QUERIED since 6.13 */
	} else if (bpf_core_field_exists(hidden->__i_ctime)) {
		bpf_core_read(time, sizeof(time), &hidden->__i_ctime);
	} else if (bpf_core_field_exists(plain->i_ctime)) {
		bpf_core_read(time, sizeof(time), &plain->i_ctime);
	} else {
		return; /* a fourth shape: no executable rather than half of one */
	}
	r->exe_ctime_s = time[0];
	r->exe_ctime_ns = time[1];
	r->flags |= RECORD_EXE;
}

/* What only kernel memory tells. */
static __always_inline void identify_task(struct record *r)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	r->start_boottime = BPF_CORE_READ(leader, start_boottime);
	r->exec_id = BPF_CORE_READ(task, self_exec_id);
	r->ppid = BPF_CORE_READ(task, real_parent, tgid);
	bpf_core_read(r->comm, sizeof(r->comm), &leader->comm);

	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	unsigned int level = BPF_CORE_READ(pid, level);
	struct upid innermost = {};
	bpf_core_read(&innermost, sizeof(innermost), &pid->numbers[level & 31]);
	r->ns_tgid = innermost.nr;
	r->pid_ns = BPF_CORE_READ(innermost.ns, ns.inum);

	identify_exe(r, task);
}

static __always_inline void identify_socket(struct record *r, struct bpf_sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp && bpf_core_field_exists(tcp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup))
		r->socket_cgroup = BPF_CORE_READ(tcp, inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup, kn, id);
}

static __always_inline void identify(struct record *r, struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	__u64 ids = bpf_get_current_pid_tgid();
	__u64 owner = bpf_get_current_uid_gid();
	__builtin_memset(r, 0, sizeof(*r));
	r->tgid = ids >> 32;
	r->tid = (__u32)ids;
	r->uid = (__u32)owner; /* the low half: S-09 is the story of the other one */
	r->gid = owner >> 32;
	r->task_cgroup = bpf_get_current_cgroup_id();
	r->connected_at = bpf_ktime_get_boot_ns();
	r->socket_cookie = bpf_get_socket_cookie(ctx);
	if (no_task_reads) {
		bpf_get_current_comm(r->comm, sizeof(r->comm));
	} else {
		identify_task(r);
		identify_socket(r, sk);
	}
}
