/* The service: catalog, pools and accounts of the VMs of many processes.
 *
 * One thread. Each turn of its loop takes at most one message of each client that has sent one, so that nobody waits for a
 * busy neighbour longer than one message of each takes, a millisecond at most. What a client may ask to be looked at in a
 * second is bounded (gmm__config.pages_per_second), and what all clients of a user may: who is over it is not read until it
 * has rested.
 *
 * It is an instance (struct gmm) without engine whose VMs have shadow slots: page tables only. The clients do the work;
 * what they say changes these tables, and references and covers follow from the changes. A client can lie about pages of
 * its own only, and what it writes into the pool is digested here.
 *
 * The service never prints: it calls the log function.
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "dedup/account.h"
#include "gmm/instance.h"
#include "service/config.h"
#include "service/store.h"

struct gmm__session;
struct gmm__pooled;
struct gmm__user;
struct gmm__metrics;

struct gmm__service_options {
	const char *runtime_dir;      /* prepared, see service/store.h */
	const char *config_path;      /* NULL: defaults */
	const char *socket_path;      /* instead of the configured one, or NULL */
	int listener;                 /* a listening socket that was handed over, or -1 */
	bool without_socket;          /* clients come by gmm__service_add_client only */
	gmm_log_fn *log;
	void *log_arg;
};

struct gmm__service {
	struct gmm *gmm;
	struct gmm__config config;
	struct gmm__store store;
	const char *config_path;
	char socket_path[108];        /* to be removed at the end; empty: not ours */
	int epoll;
	int listener;
	int signals;                  /* signalfd, or -1 */
	struct gmm__session *sessions;
	uint32_t n_sessions;
	struct gmm__user *users;      /* who have clients, or had some a moment ago */
	struct gmm__pooled *pooled;   /* domains */
	uint64_t now_ns;              /* of this turn */
	uint64_t next_tick_ns;
	bool stopping;
	bool paused;                  /* all clients rest */
	uint32_t next_unshare;        /* number of the next request to unshare */
	uint32_t modules_request;     /* number of the last request to tell modules */
	uint64_t messages, offered_pages, promoted_pages, violations, connections;
	struct gmm__metrics *metrics; /* NULL: none */

	/* Of the message that is worked on. */
	_Alignas(8) uint8_t packet[GMM__WIRE_MAX];
	struct gmm__finding finding[GMM__WIRE_REGION_PAGES];
	struct gmm__verdict verdict[GMM__WIRE_REGION_PAGES];
	struct gmm__wire_verdict answer[GMM__WIRE_REGION_PAGES];
};

/* Opens the store, takes over what an earlier process left, and listens. A gmm_status; the log says why. */
int gmm__service_open(const struct gmm__service_options *options, struct gmm__service **ret_service);
/* Ends all connections. What clients still map stays in the store for the next start. */
void gmm__service_close(struct gmm__service *service);

/* One turn: waits for messages for at most timeout_ms, takes one of each client, does what is due. False: it is to end. */
bool gmm__service_turn(struct gmm__service *service, int timeout_ms);

/* Signals of this process are taken by the loop from now on: SIGTERM and SIGINT end it, SIGHUP reads the configuration
 * again. 0 or a negative errno. */
int gmm__service_take_signals(struct gmm__service *service);

/* Serves metrics over HTTP at ADDRESS:PORT or PORT (of the loopback interface). 0 or a negative errno. */
int gmm__service_start_metrics(struct gmm__service *service, const char *address);

/* A connected socket becomes a client. It is closed if there are too many already. */
void gmm__service_add_client(struct gmm__service *service, int socket);

/* What is done every second, at once: zombies, domains, recovery. */
void gmm__service_tick(struct gmm__service *service);

/* The accounts of all clients (gmm__accounts_validate). NULL, or the broken rule. False in *ret_certain while references
 * are pending or are being recovered, when they cannot be compared. */
const char *gmm__service_validate(struct gmm__service *service, bool *ret_certain);

#endif
