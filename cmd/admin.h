/* Asks the service: a JSON object each way. For the verbs that talk to `gmm-dedup serve`. */
#ifndef CMD_ADMIN_H
#define CMD_ADMIN_H

#include <jansson.h>

#define CMD_SOCKET "/run/gmm-dedup/socket"

/* Sends a request, which it takes over, and returns the answer, a new object. NULL after a message on standard error: no
 * service there, no answer, or one that says why the request was refused. verb: for that message. */
json_t *gmm__cmd_ask(const char *verb, const char *socket, json_t *request);

#endif
