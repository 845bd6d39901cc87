/* A service in this process with a store of its own, and clients at the other ends of socket pairs that are turned by
 * hand: a request is sent, the service turns until the reply is there.
 *
 * The store needs the right to mount; service_world_main skips the tests without it. Mounts are in a mount namespace of
 * the test's own.
 */
#ifndef TESTS_UNIT_SUPPORT_SERVICE_WORLD_H
#define TESTS_UNIT_SUPPORT_SERVICE_WORLD_H

#include <check.h>

#include "service/service.h"

struct client {
	int socket;
	uint32_t sequence;
	uint32_t number;
	uint8_t token[GMM__WIRE_TOKEN];
	uint8_t secret[GMM__WIRE_SECRET]; /* of its last VM's domain */
	bool resumed;
	int fd;                           /* that came with the last reply, or -1 */
	size_t size;                      /* of the last reply */
	_Alignas(8) uint8_t reply[GMM__WIRE_MAX];
};

struct service_world {
	char dir[64];
	char config[96];
	struct gmm__service *service;
	char log[256];                    /* the last message */
	bool out_of_process;              /* somebody else turns the service */
};

extern struct service_world served;

/* Runs the tests, each in a process of its own; 77 where they cannot run. */
int service_world_main(const char *name, const TTest *const *tests, size_t count);

/* Makes the store. config: more text for the file. The domain "test" is for root, "other" for root who asks for it. */
void world_prepare(const char *config);
/* Opens the service on it. */
void world_open(void);
/* Closes it; the store stays. */
void world_close(void);
void world_remove(void);

/* Two clients with a VM and 4096 pages each: slot 0 and slot 3. */
extern struct client client_a, client_b;
/* Makes the store, opens the service, and has both connect. */
void world_begin(const char *config);
/* Checks the accounts, and closes and removes all. */
void world_end(void);
struct gmm__record pool_record(gmm__page_id page);

/* Turns until there is nothing to do. */
void world_turn(void);
/* The accounts are certain and right. */
void world_check(void);

/* Connects without HELLO. */
void client_connect(struct client *client);
/* Sends a request of fixed part and elements; false when the service has ended the connection. With the reply's status in
 * *ret_status if there was one. */
bool client_ask(struct client *client, uint32_t type, void *request, size_t size, const void *more, size_t more_size,
		int *ret_status);
/* Sends bytes as they are. False: the connection is over. */
bool client_send_raw(struct client *client, const void *bytes, size_t size);
/* True if the service has closed the connection. */
bool client_is_cut_off(struct client *client);
void client_close(struct client *client);

/* What well-behaved clients do; they assert that it works. */
void client_hello(struct client *client);
/* With number and token. The status. */
int client_resume(struct client *client);
int client_add_vm(struct client *client, uint32_t vm, const char *domain);
void client_add_slot(struct client *client, uint32_t vm, uint32_t slot, uint64_t gfn, uint32_t pages);
/* Returns how many verdicts came, in ret_verdict. */
uint32_t client_offer(struct client *client, uint32_t slot, uint32_t first, uint32_t count,
		      const struct gmm__wire_finding *finding, uint32_t n, struct gmm__wire_verdict *ret_verdict);
/* The page's digest, as a finding. */
struct gmm__wire_finding client_finding(const struct client *client, uint16_t index, const uint8_t *bytes);
/* Promotes one page of the region; its id, or NIL. */
gmm__page_id client_promote(struct client *client, uint32_t slot, uint32_t first, uint32_t count, uint32_t index,
			    const uint8_t *bytes);
/* One state for pages [first, first + count). */
bool client_commit(struct client *client, uint32_t slot, uint32_t first, uint32_t count, uint8_t state);
/* How many looks came; the last in *ret_look. */
uint32_t client_poll(struct client *client, struct gmm__wire_look *ret_look);
/* The file of a chunk, which the caller closes. */
int client_file(struct client *client, gmm__page_id page, uint64_t *ret_offset);

/* A page of made-up bytes. */
const uint8_t *page_bytes(uint64_t seed);

/* Gets a page shared from nothing: its only page 0 of a new slot. Its page id. */
gmm__page_id share_new(struct client *one, uint32_t slot_one, struct client *two, uint32_t slot_two, uint64_t seed);

#endif
