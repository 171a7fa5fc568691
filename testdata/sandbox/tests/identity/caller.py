"""Callers that no stock client can be made to be. Usage: caller.py HOW TARGET [ARGUMENT]...

Asks IMDS for TARGET (the WireServer, if it begins with /machine) and prints one JSON object: what the caller saw.
"""

import json
import os
import signal
import socket
import struct
import sys
import threading

HOW, TARGET, ARGUMENTS = sys.argv[1], sys.argv[2], sys.argv[3:]
HOST = ("168.63.129.16" if TARGET.startswith("/machine") else "169.254.169.254", 80)


def request(target):
    return f"GET {target} HTTP/1.1\r\nHost: {HOST[0]}\r\nMetadata: true\r\nConnection: close\r\n\r\n".encode()


def answer(sock):
    """The status of the answer; the whole of it must be there."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    assert len(body) == length, (head, len(body))
    return int(lines[0].split()[1])


def ask(sock, **more):
    peer = sock.getpeername()[:2]
    sock.sendall(request(TARGET))
    return {"status": answer(sock), "peer": list(peer), "pid": os.getpid(), **more}


def become(uid, gid):
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def plain():
    return ask(socket.create_connection(HOST))


def ids():
    """With the real and effective user id of the arguments."""
    real, effective = map(int, ARGUMENTS)
    os.setresuid(real, effective, 0)
    return plain()


def six():
    """A dual-stack client: an AF_INET6 socket and the IPv4-mapped address."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.connect(("::ffff:" + HOST[0], HOST[1]))
    return ask(sock)


def port():
    """From a source port of its own choice, which is free again afterwards."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", int(ARGUMENTS[0])))
    sock.connect(HOST)
    seen = ask(sock)
    # Ends with a reset, or the port would not be free for the next caller for a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return seen


def fastopen():
    """TCP fast open: no connect(), the first bytes make the connection."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    data = request(TARGET)
    assert sock.sendto(data, socket.MSG_FASTOPEN, HOST) == len(data)
    return {"status": answer(sock), "pid": os.getpid()}


def thread():
    """Not the main thread connects."""
    seen = {}

    def run():
        seen.update(plain(), thread=threading.get_native_id())

    worker = threading.Thread(target=run)
    worker.start()
    worker.join()
    return seen


def leave():
    """Asks and is gone; the answer finds nobody."""
    sock = socket.create_connection(HOST)
    sock.sendall(request(TARGET))
    return {"pid": os.getpid()}


def orphan():
    """The connecting process is gone, its child has the socket: connects in a child, asks in a grandchild."""
    receive, send = os.pipe()
    connector = os.fork()
    if connector == 0:
        sock = socket.create_connection(HOST)
        if os.fork() == 0:
            os.close(receive)
            # Holds the socket until the parent is gone and the agent goes on.
            sys.stdin.read()
            sock.sendall(request(TARGET))
            os.write(send, json.dumps({"status": answer(sock)}).encode())
        os._exit(0)
    os.close(send)
    os.waitpid(connector, 0)
    print("gone", flush=True)
    with os.fdopen(receive) as pipe:
        return {**json.load(pipe), "pid": connector}


def execute():
    """Connects, asks, and becomes another program, which reads the answer."""
    sock = socket.create_connection(HOST)
    sock.sendall(request(TARGET))
    os.dup2(sock.fileno(), 0)
    os.execv(ARGUMENTS[0], ARGUMENTS)


def handed():
    """Connects as one user and hands the socket to a process of another, which asks. The arguments: the uids of both."""
    connector_id, asker_id = map(int, ARGUMENTS)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connector = os.fork()
    if connector == 0:
        theirs.close()
        become(connector_id, connector_id)
        sock = socket.create_connection(HOST)
        socket.send_fds(ours, [b"x"], [sock.fileno()])
        # Stays until the asker is done, so that it is not a matter of a process that is gone.
        ours.recv(1)
        os._exit(0)
    ours.close()
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    become(asker_id, asker_id)
    seen = ask(socket.socket(fileno=fds[0]), connector=connector)
    theirs.close()
    os.waitpid(connector, 0)
    return seen


def many():
    """Opens so many connections at once, then asks on each of them TARGET with its number; begins when stdin ends."""
    count = int(ARGUMENTS[0])
    sys.stdin.read()
    socks = [socket.create_connection(HOST) for _ in range(count)]
    for number, sock in enumerate(socks):
        sock.sendall(request(f"{TARGET}-{number}"))
    return {"statuses": [answer(sock) for sock in socks], "pid": os.getpid()}


signal.alarm(60)
print(json.dumps(globals()[HOW]()))
