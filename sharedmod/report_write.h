/* Makes the frames of sharedmod/report_format.h, for the agent in the guest and for tests. Uses nothing but the C library, so
 * that the agent can be linked by itself. */
#ifndef SHAREDMOD_REPORT_WRITE_H
#define SHAREDMOD_REPORT_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sharedmod/report_format.h"

/* One frame at a time; after each of gmm__report_write_hello, _done, _request and _end the frame is the first `bytes` bytes
 * of `frame`. */
struct gmm__report_writer {
	uint32_t sequence;
	size_t bytes;
	_Alignas(8) uint8_t frame[sizeof(struct gmm__report_header) + GMM__REPORT_PAYLOAD_MAX];
};

struct gmm__report_write_region {
	uint64_t offset_bytes, size_bytes;
	const struct gmm__report_run *runs;
	uint32_t n_runs;
};

struct gmm__report_write_module {
	uint32_t id;
	enum gmm__report_module_kind kind;
	const char *name, *version; /* within the limits, without control characters */
	uint64_t size_bytes;
	uint32_t n_regions;
	const struct gmm__report_write_region *regions;
};

/* Starts a session: the frames after it are numbered from 1. */
void gmm__report_write_hello(struct gmm__report_writer *writer, uint64_t session);

/* A frame with changes: begin, any number of remove and add, end. Those return false when the frame is full; nothing was
 * written then. A module for which an empty frame is too small can not be sent at all. */
void gmm__report_write_begin(struct gmm__report_writer *writer);
bool gmm__report_write_remove(struct gmm__report_writer *writer, uint32_t id);
bool gmm__report_write_add(struct gmm__report_writer *writer, const struct gmm__report_write_module *module);
void gmm__report_write_end(struct gmm__report_writer *writer);

/* True between begin and end while nothing was written. */
bool gmm__report_write_is_empty(const struct gmm__report_writer *writer);

void gmm__report_write_done(struct gmm__report_writer *writer, uint32_t modules);

/* From the host to the guest. */
void gmm__report_write_request(struct gmm__report_writer *writer, enum gmm__report_want want);

#endif
