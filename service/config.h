/* The service's configuration: defaults, and the INI file over them. docs/service.md describes every key. */
#ifndef SERVICE_CONFIG_H
#define SERVICE_CONFIG_H

#include "service/domain.h"

struct gmm__config {
	char socket[108];
	uint32_t socket_mode;
	bool userfaultfd;             /* pass /dev/userfaultfd to clients that ask for it */
	uint32_t cpu_percent;         /* of one core for each agent; UINT32_MAX: as the client likes */
	uint32_t max_clients;         /* zombies included */
	uint32_t max_clients_of_user;
	uint32_t max_vms;
	uint32_t max_vms_of_user;
	uint64_t max_ram_pages;       /* of all VMs of a domain */
	uint64_t max_ram_pages_of_user;
	uint64_t max_pool_pages;      /* of a domain; 0: as the host has memory */
	uint32_t pages_per_second;    /* that a client may have looked at; it waits beyond */
	uint32_t user_pages_per_second; /* the same for all clients of a user together */
	bool metrics_ksm;             /* also under the names that node_exporter gives KSM's figures */
	bool metrics_domains;         /* figures of single domains and VMs over TCP, too */
	struct gmm__domain_rules rules;
};

void gmm__config_init(struct gmm__config *config);

/* Reads a file over the defaults. 0; or a negative errno and what is wrong with which line. */
int gmm__config_read(const char *path, struct gmm__config *ret_config, char *ret_why, size_t why_size);

#endif
