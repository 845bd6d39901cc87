/* What the host knows, and what it has to be told: turns a round's files into frames. */
#ifndef GUEST_SENDER_H
#define GUEST_SENDER_H

#include "guest/files.h"
#include "guest/kernel.h"
#include "sharedmod/report_write.h"

enum { SENDER_RUNS_MAX = 8000 }; /* of a module: as many as a frame holds */

struct sender {
	/* Sends bytes; false when the connection is gone. */
	bool (*send)(void *arg, const void *bytes, size_t size);
	void *arg;
	uint32_t known_count;
	struct {
		uint64_t dev, inode, digest; /* the kernel has dev and inode 0 */
		bool used;
	} known[GMM__REPORT_MODULES_MAX];
	uint64_t *digests; /* FILES_MAX: of the files of this round; 0: not to be reported */
	uint32_t *order;   /* FILES_MAX: indices of files, those with most pages first */
	struct gmm__report_writer writer;
	struct gmm__report_run runs[SENDER_RUNS_MAX], scratch[SENDER_RUNS_MAX];
};

/* NULL without memory. */
struct sender *sender_new(bool (*send)(void *arg, const void *bytes, size_t size), void *arg);
void sender_free(struct sender *sender);

/* The host knows nothing: says HELLO. False when the connection is gone, as for the next. */
bool sender_start(struct sender *sender, uint64_t session);

/* Tells what has changed since the last round, then DONE. kernel NULL: not known. */
bool sender_report(struct sender *sender, struct files *files, const struct kernel *kernel);

#endif
