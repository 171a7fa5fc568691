/* Connects through io_uring and asks for argv[2] at argv[1]:80. argv[3]: "inline", or "async" to let a kernel worker thread
 * connect. Prints the answer. Exits with 77 where the kernel refuses io_uring. */
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(80) };
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char text[4096];
	ssize_t n;
	int made;

	if (argc != 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	made = io_uring_queue_init(4, &ring, 0);
	if (made == -EPERM || made == -ENOSYS || made == -EACCES)
		return 77;
	if (made < 0)
		return 3;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_connect(sqe, fd, (struct sockaddr *)&to, sizeof(to));
	if (!strcmp(argv[3], "async"))
		sqe->flags |= IOSQE_ASYNC;
	if (io_uring_submit_and_wait(&ring, 1) < 0 || io_uring_wait_cqe(&ring, &cqe) < 0)
		return 4;
	if (cqe->res < 0) {
		fprintf(stderr, "connect: %s\n", strerror(-cqe->res));
		return 5;
	}
	n = snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: %s\r\nMetadata: true\r\nConnection: close\r\n\r\n", argv[2], argv[1]);
	if (write(fd, text, n) != n)
		return 6;
	while ((n = read(fd, text, sizeof(text))) > 0)
		if (write(1, text, n) != n)
			return 7;
	return n < 0 ? 8 : 0;
}
