/* Answers to ADMIN requests: JSON, one object each way.
 *
 *   {"do": "status"}                        domains, clients and VMs; with "check": true, for root and the service's own
 *                                           user, also "accounts": they are counted anew
 *   {"do": "why", "pid": N}                 of a process: what status says of it
 *   {"do": "unshare" | "pause" | "resume", "pid": N or "all"}
 *   {"do": "dump", "pid": N}                runs of pages of equal state
 *   {"do": "modules"}                       asks the processes for their guests' modules: "request", a number, and
 *                                           "processes", how many were asked
 *   {"do": "modules", "request": N}         how many have "answered"; when all have, also "modules", and "left_out", how
 *                                           many records are not in it; with "now": true, what is there. "next": if not
 *                                           null, "from" in the request for the rest
 *
 * An answer has "error" and a sentence if the request was refused. Root and the service's own user see and command all;
 * others see and command their own processes.
 */
#ifndef SERVICE_ADMIN_H
#define SERVICE_ADMIN_H

#include "service/service.h"

/* The answer, malloc'ed; NULL without memory. To *ret_charge is added what it cost beyond what all do, in pages offered. */
char *gmm__admin_answer(struct gmm__service *service, const struct gmm__peer *peer, const char *text, size_t size,
			uint32_t *ret_charge);

#endif
