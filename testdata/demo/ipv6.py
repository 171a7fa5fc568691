# What Java and every other dual-stack client does: an IPv6 socket that connects to the IPv4-mapped form of an address.
# Prints the status, whom the program believes to speak to, and whom the kernel's socket table names.
import socket

s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
s.settimeout(10)
s.connect(("::ffff:169.254.169.254", 80))
believed, port = s.getpeername()[:2]

mine = "%04X" % s.getsockname()[1]
for line in open("/proc/self/net/tcp6").readlines()[1:]:
    local, remote = line.split()[1:3]
    if local.endswith(":" + mine):
        address, number = remote.split(":")
        # Four words in the machine's byte order; the last one is the IPv4 address.
        octets = reversed(bytes.fromhex(address[24:]))
        table = ".".join(map(str, octets)) + ":" + str(int(number, 16))

s.sendall(
    b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\n"
    b"Host: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n"
)
answer = b""
while piece := s.recv(65536):
    answer += piece
print(answer.split(b" ", 2)[1].decode(), "[%s]:%d" % (believed, port), table)
