/* The parts of the verb service: a service of its own, and the processes that share through it. */
#ifndef BENCH_SERVICE_H
#define BENCH_SERVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- the service ----------------------------------------------------------------------------------------- */

struct service_host {
	char dir[64];
	char socket[96], config[96], command[4096]; /* command: path of gmm-dedup */
	pid_t pid;
};

/* Starts `gmm-dedup serve` in a new mount namespace of this process. Ends the program if that fails; the service ends with
 * it in any case. */
void gmm__bench_service_start(struct service_host *host);

/* What `gmm-dedup status --check` says; the caller's. Ends the program when the service does not answer. */
json_t *gmm__bench_service_status(const struct service_host *host);

/* Memory of the service that is not shared with others: its heap and stacks, not the pool. */
uint64_t gmm__bench_service_bytes(const struct service_host *host);

/* ---- clients --------------------------------------------------------------------------------------------- */

enum client_state { CLIENT_STARTING, CLIENT_READY, CLIENT_REFUSED, CLIENT_WRONG };

/* Of one client, shared with its process. */
struct client_report {
	_Atomic int state;          /* enum client_state */
	_Atomic uint64_t shared_pages;
	_Atomic uint64_t checked_pages; /* while at work */
	_Atomic bool complete;      /* it has compared every byte, as it was told */
};

enum client_work { WORK_NONE, WORK_WRITE, WORK_CHECK };

struct clients {
	unsigned count;
	uint64_t pages, equal_pages; /* of each: the first equal_pages are the same in all */
	const char *socket;
	uint64_t write_ns, pass_ms;  /* how long each rests between writes, and its engine between passes */
	pid_t *pid;
	struct client_report *report; /* count */
	_Atomic int *work;            /* enum client_work: what they do */
};

void gmm__bench_clients_make(struct clients *clients, const char *socket);
void gmm__bench_client_start(struct clients *clients, unsigned i);
/* By SIGKILL, wherever it is; does not wait for its end. */
void gmm__bench_client_kill(struct clients *clients, unsigned i);
/* Ends the program if a client found wrong bytes, was refused or is gone. */
void gmm__bench_clients_check(const struct clients *clients);
/* Waits until each client has so many shared pages, and has compared every byte if it is to be complete. False: not in
 * time. */
bool gmm__bench_clients_wait(const struct clients *clients, uint64_t shared, bool complete, double seconds);
uint64_t gmm__bench_clients_checked_pages(const struct clients *clients);

#endif
