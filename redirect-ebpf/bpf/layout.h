/* SPDX-License-Identifier: (MIT OR GPL-2.0-only)
 *
 * What the kernel half and the loader share: the layout of map keys and values. Mirrored by src/layout.rs; both sides assert
 * every size and offset, because nothing else would notice a difference. Maps outlive the agent: whoever changes something here or a
 * map in maps.h gives it a new number there (LAYOUT).
 */
#pragma once
#include <linux/types.h>

/* Guarded destinations, in the order of core's `Destination::ALL`; index of the map `targets`. */
#define IMDS_IP 0xA9FEA9FEu       /* 169.254.169.254 */
#define WIRESERVER_IP 0xA83F8110u /* 168.63.129.16 */
#define HTTP_PORT 80
#define HOSTGA_PORT 32526
enum destination {
	DESTINATION_IMDS,
	DESTINATION_WIRESERVER,
	DESTINATION_HOSTGA,
	DESTINATIONS,
	DESTINATION_LISTENER = DESTINATIONS, /* the agent itself: recorded, never rewritten */
	DESTINATION_OTHER,
};

/* The agent's listener (PX-01). */
#define LISTENER_IP 0x7F000001u /* 127.0.0.1 */
#define LISTENER_PORT 3080

/* Value of the map `targets`. */
#define TARGET_REDIRECT 1u /* connections from the agent's network namespace go to the listener */
#define TARGET_ENFORCE 2u  /* connections from other network namespaces are refused (S-08) */

/* Value of the map `config`, one entry: the agent's network namespace, both ways to name it, so that programs with and without
 * `no_ns_ops` can share the map while one agent takes over from another. */
struct config {
	__u64 agent_netns;       /* cookie */
	__u64 agent_netns_inode; /* for `no_ns_ops` */
};

/* Age of the map `heartbeat` (CLOCK_MONOTONIC, which stands still while the machine sleeps) from which on a destination in audit
 * is given up (S-03). The agent writes it every 10 s, so it has been gone for at least 30 s then. */
#define HEARTBEAT_LIMIT_NS 40000000000ull

/* Key of the map `flows`: the client's end of a connection to the listener. Unique while the connection lives (S-02). */
struct flow {
	__u64 netns;
	__be32 ip;
	__u16 port; /* host order */
	__u16 zero;
};

enum route {
	ROUTE_REDIRECTED = 1, /* rewritten to the listener */
	ROUTE_DIRECT = 2,     /* the caller connected to the listener itself */
	ROUTE_PASSED = 3,     /* another namespace, audit: let through; only noted, for the agent and for the egress backstop */
	ROUTE_REFUSED = 4,    /* another namespace, enforce: refused; only noted, in `foreign` */
};

#define RECORD_MAPPED_V6 1u /* the caller used an IPv6 socket with a v4-mapped address */
#define RECORD_EXE 2u       /* the exe_* members are filled */

/* Who called connect(). Value of `sk_who` (client socket), `flows`, `peer_who` (accepted socket) and `foreign`. */
struct record {
	__u64 connected_at;   /* ns since boot */
	__u64 socket_cookie;  /* of the client's socket */
	__u64 netns;          /* as in struct config */
	__u64 task_cgroup;    /* cgroup2 id of the thread */
	__u64 socket_cgroup;  /* cgroup2 id of the socket, 0 before 5.15 */
	__u64 start_boottime; /* of the process, ns since boot; 0 = unknown */
	__u64 exec_id;        /* task->self_exec_id */
	__u64 exe_inode;
	__s64 exe_ctime_s;
	__u32 exe_ctime_ns;
	__u32 exe_dev; /* kernel dev_t: major << 20 | minor */
	__u32 exe_generation;
	__u32 tgid; /* initial pid namespace */
	__u32 tid;
	__u32 uid; /* initial user namespace; the user half of the kernel's combined value (S-09) */
	__u32 gid;
	__u32 ppid;
	__u32 pid_ns;  /* inode number of the pid namespace */
	__u32 ns_tgid; /* as the process sees itself */
	__be32 original_ip;
	__be16 original_port;
	__u8 route;
	__u8 flags;
	char comm[16]; /* of the process, not of the thread: io_uring workers have names of their own */
};

/* Index of the map `counters`. Only guarded traffic counts, so that other traffic pays nothing. */
enum counter {
	COUNT_REDIRECTED,
	COUNT_DIRECT,
	COUNT_EXEMPT,
	COUNT_FOREIGN_REFUSED, /* other namespace, enforce */
	COUNT_FOREIGN_PASSED,  /* other namespace, audit */
	COUNT_NO_MEMORY,       /* no socket storage: refused */
	COUNT_HANDED_OVER,     /* records moved to an accepted socket */
	COUNT_BIND_REFUSED,
	COUNT_EGRESS_DROPPED,
	COUNT_GIVEN_UP,     /* passed: audit, and the agent is gone */
	COUNT_FOREIGN_LOST, /* of the foreign ones: not noted, `foreign` was full or there was no memory */
	COUNTERS,
};

#define OFFSET(type, member, at) _Static_assert(__builtin_offsetof(struct type, member) == at, #type "." #member)
_Static_assert(sizeof(struct config) == 16, "config");
OFFSET(config, agent_netns, 0);
OFFSET(config, agent_netns_inode, 8);
_Static_assert(sizeof(struct flow) == 16, "flow");
OFFSET(flow, netns, 0);
OFFSET(flow, ip, 8);
OFFSET(flow, port, 12);
_Static_assert(sizeof(struct record) == 136, "record");
OFFSET(record, connected_at, 0);
OFFSET(record, socket_cookie, 8);
OFFSET(record, netns, 16);
OFFSET(record, task_cgroup, 24);
OFFSET(record, socket_cgroup, 32);
OFFSET(record, start_boottime, 40);
OFFSET(record, exec_id, 48);
OFFSET(record, exe_inode, 56);
OFFSET(record, exe_ctime_s, 64);
OFFSET(record, exe_ctime_ns, 72);
OFFSET(record, exe_dev, 76);
OFFSET(record, exe_generation, 80);
OFFSET(record, tgid, 84);
OFFSET(record, tid, 88);
OFFSET(record, uid, 92);
OFFSET(record, gid, 96);
OFFSET(record, ppid, 100);
OFFSET(record, pid_ns, 104);
OFFSET(record, ns_tgid, 108);
OFFSET(record, original_ip, 112);
OFFSET(record, original_port, 116);
OFFSET(record, route, 118);
OFFSET(record, flags, 119);
OFFSET(record, comm, 120);
