/* Asks the service. */
#include "cmd/admin.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wire/wire.h"

enum { TIMEOUT_MS = 10000 };

static json_t *complain(const char *verb, const char *what, const char *why)
{
	fprintf(stderr, "gmm-dedup %s: %s%s%s\n", verb, what, why ? ": " : "", why ? why : "");
	return NULL;
}

static int send_request(int fd, const char *text)
{
	struct gmm__wire_admin head = { .header.type = GMM__WIRE_ADMIN, .header.sequence = 1 };
	struct iovec parts[2] = { { &head, sizeof head }, { (void *)(uintptr_t)text, strlen(text) } };

	return gmm__wire_send(fd, parts, 2, -1);
}

/* The text of all packets of the answer, or NULL. */
static char *receive_text(int fd)
{
	char *packet = malloc(GMM__WIRE_MAX), *text = NULL;
	const struct gmm__wire_admin *head = (const void *)packet;
	size_t size = 0;
	bool more = packet != NULL;

	while (more) {
		int passed = -1;
		ssize_t n = gmm__wire_receive(fd, packet, GMM__WIRE_MAX, &passed);
		if (passed >= 0)
			close(passed);
		bool good = n >= (ssize_t)sizeof *head && head->header.type == GMM__WIRE_ADMIN && head->header.status == 0;
		char *grown = good ? realloc(text, size + (size_t)n - sizeof *head + 1) : NULL;
		if (!grown) {
			free(text);
			free(packet);
			return NULL;
		}
		text = grown;
		memcpy(text + size, packet + sizeof *head, (size_t)n - sizeof *head);
		size += (size_t)n - sizeof *head;
		text[size] = 0;
		more = head->more;
	}
	free(packet);
	return text;
}

json_t *gmm__cmd_ask(const char *verb, const char *socket, json_t *request)
{
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;

	json_decref(request);
	if (!text)
		return complain(verb, "no memory", NULL);
	int fd = gmm__wire_connect(socket, TIMEOUT_MS);
	int rc = fd < 0 ? fd : send_request(fd, text);
	free(text);
	text = rc == 0 ? receive_text(fd) : NULL;
	if (fd >= 0)
		close(fd);
	if (rc != 0)
		return complain(verb, socket, strerror(-rc));
	json_t *answer = text ? json_loads(text, 0, NULL) : NULL;
	free(text);
	if (!json_is_object(answer)) {
		json_decref(answer);
		return complain(verb, socket, "no answer");
	}
	const char *error = json_string_value(json_object_get(answer, "error"));
	if (!error)
		return answer;
	complain(verb, error, NULL);
	json_decref(answer);
	return NULL;
}
