/* What an agent has told: its stream, read by the host's own parser, as a table of modules. */
#ifndef TESTS_GUEST_TOLD_H
#define TESTS_GUEST_TOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sharedmod/report.h"

enum { TOLD_PAGES_MAX = 1 << 16 }; /* of a module; what is beyond is not kept */

struct told_module {
	bool used;
	enum gmm__report_module_kind kind;
	char name[GMM__REPORT_NAME_MAX + 1], version[GMM__REPORT_VERSION_MAX + 1];
	uint64_t size_bytes;
	uint32_t regions, pages; /* pages that were named */
	uint64_t *gfns;          /* of the first region, by page; 0: not named. TOLD_PAGES_MAX */
};

struct told {
	struct gmm__mem mem;
	struct gmm__report_parser *parser;
	struct told_module modules[GMM__REPORT_MODULES_MAX];
	uint32_t count, starts, adds, removes, dones;
	uint64_t pages;
	enum gmm__report_fault fault;
};

struct told *told_new(uint64_t gfn_end);
void told_free(struct told *told);

/* Feeds bytes; credit is no matter here. */
void told_feed(struct told *told, const void *bytes, size_t size);
void told_feed_file(struct told *told, const char *path);

/* The module of that name, or NULL. */
const struct told_module *told_find(const struct told *told, const char *name);

#endif
