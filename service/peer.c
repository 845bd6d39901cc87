/* Who is at the other end of a connection, by what the kernel says of it. */
#include "service/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

static void read_groups(int socket, struct gmm__peer *peer)
{
	gid_t group[4096];
	socklen_t size = sizeof group;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, group, &size) != 0)
		return;
	for (size_t i = 0; i < size / sizeof *group && peer->n_groups < GMM__PEER_GROUPS; i++)
		peer->group[peer->n_groups++] = group[i];
}

static void read_label(int socket, struct gmm__peer *peer)
{
	socklen_t size = sizeof peer->label - 1;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERSEC, peer->label, &size) != 0) {
		peer->label_too_long = errno == ERANGE;
		memset(peer->label, 0, sizeof peer->label);
		return;
	}
	peer->label[size] = 0;
	/* What AppArmor says of a process without a profile. */
	if (strcmp(peer->label, "unconfined") == 0)
		peer->label[0] = 0;
}

/* The line of the unified hierarchy, "0::/path". */
static void read_cgroup(struct gmm__peer *peer)
{
	char path[64], text[4096];

	snprintf(path, sizeof path, "/proc/%d/cgroup", (int)peer->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (strncmp(line, "0::", 3) == 0 && strlen(line + 3) < sizeof peer->cgroup)
			strcpy(peer->cgroup, line + 3);
}

/* The number of a process may be that of another one by now. A descriptor of the very process that connected says
 * whether it was still there after the file was read. */
static void read_cgroup_safely(int socket, struct gmm__peer *peer)
{
	int pidfd = -1;
	socklen_t size = sizeof pidfd;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) != 0 || pidfd < 0)
		return;
	read_cgroup(peer);
	struct pollfd ended = { .fd = pidfd, .events = POLLIN };
	if (poll(&ended, 1, 0) != 0)
		peer->cgroup[0] = 0;
	close(pidfd);
}

int gmm__peer_read(int socket, struct gmm__peer *ret_peer)
{
	struct gmm__peer peer = { 0 };
	struct ucred cred;
	socklen_t size = sizeof cred;

	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0)
		return -errno;
	peer.uid = cred.uid;
	peer.gid = cred.gid;
	peer.pid = cred.pid;
	read_groups(socket, &peer);
	read_label(socket, &peer);
	read_cgroup_safely(socket, &peer);
	*ret_peer = peer;
	return 0;
}
