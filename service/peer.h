/* Who is at the other end of a connection, by what the kernel says of it. */
#ifndef SERVICE_PEER_H
#define SERVICE_PEER_H

#include "service/domain.h"

/* 0 or a negative errno. The cgroup is left empty where the process cannot be told from a later one with its number. */
int gmm__peer_read(int socket, struct gmm__peer *ret_peer);

#endif
