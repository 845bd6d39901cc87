/* Answers to ADMIN requests: JSON, one object each way.
 *
 *   {"do": "status"}                        domains, clients and VMs
 *   {"do": "why", "pid": N}                 states of the pages of a process's VMs
 *   {"do": "unshare" | "pause" | "resume", "pid": N or "all"}
 *   {"do": "dump", "pid": N}                runs of pages of equal state
 *   {"do": "validate"}                      recounts the accounts; root only
 *
 * An answer has "error" and a sentence if the request was refused. Root and the service's own user see and command all;
 * others see and command their own processes.
 */
#ifndef SERVICE_ADMIN_H
#define SERVICE_ADMIN_H

#include "service/service.h"

/* The answer, malloc'ed; NULL without memory. */
char *gmm__admin_answer(struct gmm__service *service, const struct gmm__peer *peer, const char *text, size_t size);

#endif
