/* A client: its connection, its VMs and slots, and what it owes.
 *
 * Life: connected → HELLO → (VM_ADD, SLOT_ADD, regions, POLL) → connection lost: **zombie** → resumed by a HELLO with its
 * number and token, or freed. A zombie keeps its references and covers as long as a process maps files of its domains,
 * which may be a forked child of it. A client that broke a rule becomes a zombie that cannot be resumed.
 *
 * After a restart of the service, the clients that the store knows are zombies that are **unreported**.
 */
#ifndef SERVICE_SESSION_H
#define SERVICE_SESSION_H

#include "service/service.h"
#include "service/user.h"

enum { GMM__LOOK_QUEUE = 4096 };

/* References held for verdicts on the pages of one region, until the client says what became of them. */
struct gmm__pending {
	struct gmm__pending *next;    /* of those kept from lost connections */
	struct gmm__slot *slot;       /* NULL: none */
	uint32_t first, count;
	uint64_t promote[GMM__WIRE_REGION_PAGES / 64]; /* page[i] is the twin that made page i's verdict PROMOTE */
	gmm__page_id page[GMM__WIRE_REGION_PAGES];     /* else: the shared page it has a reference to, or NIL */
};

struct gmm__module_answer;

struct gmm__session {
	struct gmm__session *next;
	struct gmm__service *service;
	int socket;                   /* -1: zombie */
	uint32_t client;              /* its number; 0 before HELLO */
	uint8_t token[GMM__WIRE_TOKEN];
	char program[GMM__WIRE_NAME];
	struct gmm__peer peer;
	bool banned;                  /* broke a rule: never resumed */
	bool unreported;              /* what it uses is not known since the service started again */
	bool forked;                  /* a child of it may map pool pages */
	bool waits;                   /* over its bound: not read until resume_ns */
	uint64_t resume_ns;
	struct gmm__user *user;       /* whose client it is */
	struct gmm__bucket bucket;
	uint64_t charged_pages;       /* since it came */
	uint64_t connected_ns;
	struct gmm_vm *vm[GMM__WIRE_VMS];
	struct gmm__slot *slot[GMM__WIRE_SLOTS];
	struct gmm__pending pending;
	struct gmm__pending *kept;    /* from connections that were lost before the COMMIT */
	struct gmm__wire_poll told;   /* its last POLL */
	int vm_refused, ram_refused;  /* the status of its last VM_ADD and SLOT_ADD, for people */
	uint64_t offered_pages, promoted_pages, messages, cpu_ns;
	bool paused;
	uint32_t unshare;             /* number of the last request to it */
	struct gmm__wire_look *look;  /* queue of at most GMM__LOOK_QUEUE, allocated with the first */
	uint32_t n_look;
	uint32_t modules_wanted;      /* service/modules.h: number of the last request to tell its modules; 0: none */
	uint32_t modules_asked;       /* the one that the last news told and that it has not answered; 0: none */
	struct gmm__module_answer *modules, *modules_coming; /* its last answer, and the one on its way; or NULL */
	char *output;                 /* what is left of an ADMIN reply */
	size_t output_size, output_sent;
	struct gmm__wire_header output_to;
};

/* A session with this connection, which it owns from now on; NULL without memory or where its peer is unknown. */
struct gmm__session *gmm__session_new(struct gmm__service *service, int socket);
/* One that the store remembers. */
struct gmm__session *gmm__session_restore(struct gmm__service *service, const struct gmm__store_client *client);
/* Ends its VMs and frees it; out of the list already. */
void gmm__session_free(struct gmm__session *s);

/* The connection is readable: takes one message. False: the connection is over. */
bool gmm__session_receive(struct gmm__session *s);
/* It is writable: goes on with a long reply. False: the connection is over. */
bool gmm__session_write(struct gmm__session *s);
/* Closes the connection. False: it never was a client, or is one no more, and is to be freed. */
bool gmm__session_disconnect(struct gmm__session *s);

/* True if it is a zombie that no process maps anything for any more. */
bool gmm__session_is_over(const struct gmm__session *s);

/* True if it has a VM in the domain. */
bool gmm__session_is_in(const struct gmm__session *s, const struct gmm__domain *domain);

/* Tells the client to offer a page again. */
void gmm__session_add_look(struct gmm__session *s, uint32_t slot, uint32_t page);

/* Takes pages out of its bound and its user's; see gmm__config.pages_per_second. */
void gmm__session_charge(struct gmm__session *s, uint32_t pages);

/* Sends a reply to a request: header, and two more parts that may be empty. 0 or a negative errno. */
int gmm__session_reply(struct gmm__session *s, const struct gmm__wire_header *request, void *reply, size_t size,
		       const void *more, size_t more_size, int fd_passed);
/* A reply that is a header with a status and no more. */
int gmm__session_reply_status(struct gmm__session *s, const struct gmm__wire_header *request, int status);
/* Takes over text (malloc) as the reply to an ADMIN request. */
int gmm__session_reply_text(struct gmm__session *s, const struct gmm__wire_header *request, char *text);

#endif
