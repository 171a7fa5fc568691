/* SPDX-License-Identifier: (MIT OR GPL-2.0-only)
 *
 * The few kernel structures that we look into, each with the members that we need and no others. `preserve_access_index` makes
 * the loader put in the offsets of the running kernel (CO-RE), so neither order nor size matters here, only names and types.
 */
#pragma once
#include <linux/types.h>

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

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup; /* inside a union before 5.15: then it does not exist for us */
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct super_block {
	__u32 s_dev;
};

struct inode {
	unsigned long i_ino;
	__u32 i_generation;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
};

struct mm_struct {
	struct file *exe_file;
};

struct task_struct {
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct pid *thread_pid;
	__u64 start_boottime;
	__u64 self_exec_id;
	int tgid;
	char comm[16];
};

/* The change time of an inode has had three shapes. `___x` suffixes are ignored when the loader looks for the structure. */
struct timespec64___any {
	long long tv_sec;
	long tv_nsec;
};

struct inode___to_6_5 {
	struct timespec64___any i_ctime;
};

struct inode___to_6_10 {
	struct timespec64___any __i_ctime;
};

struct inode___from_6_11 {
	long long i_ctime_sec;
	__u32 i_ctime_nsec;
};

#pragma clang attribute pop
