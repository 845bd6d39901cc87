/* Is a frame of a report what it says? Pure functions over bytes that a guest sent; report.c keeps the state. */
#ifndef SHAREDMOD_REPORT_CHECK_H
#define SHAREDMOD_REPORT_CHECK_H

#include "sharedmod/report.h"

/* The modules that a guest has reported. Kept twice by the parser: a frame is checked on a copy. */
struct gmm__report_known {
	uint64_t pages;
	uint32_t modules, runs;
	struct {
		uint32_t runs;
		uint32_t pages : 31, used : 1;
	} module[GMM__REPORT_MODULES_MAX];
};

/* Room to sort the runs of one module. */
struct gmm__report_scratch {
	struct gmm__report_run runs[GMM__REPORT_PAYLOAD_MAX / sizeof(struct gmm__report_run)];
};

/* A header by itself: FINE when its payload is worth waiting for. */
enum gmm__report_fault gmm__report_check_header(const struct gmm__report_header *header);

enum gmm__report_fault gmm__report_check_hello(const struct gmm__report_hello *hello, size_t bytes);

/* All records of a CHANGES payload, 8-byte aligned. known is changed also when a fault is returned; *ret_pages is set in any
 * case, to the pages that were looked at. */
enum gmm__report_fault gmm__report_check_changes(const void *payload, size_t bytes, const struct gmm__report_limits *limits,
						 struct gmm__report_known *known, struct gmm__report_scratch *scratch,
						 uint64_t *ret_pages);

/* Takes apart an ADD record that has been checked. */
void gmm__report_unpack(const struct gmm__report_record *record, struct gmm__report_module *ret_module);

#endif
