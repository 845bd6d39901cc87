/* The files that a guest's processes have mapped for reading or executing, and where their pages are in its memory.
 *
 * Collected anew for each report. One entry for each file, however many processes map it, with a table from page of the file
 * to gfn that costs memory only where pages are.
 */
#ifndef GUEST_FILES_H
#define GUEST_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sharedmod/report_format.h"

enum {
	PAGE_BYTES = GMM__REPORT_PAGE_BYTES,
	FILES_MAX = 4096,             /* more than the host takes, so that the largest can be chosen */
	FILES_PAGES_MAX = 16 << 20,   /* of all tables together: 64 MiB */
	FILE_PAGES_MAX = GMM__REPORT_MODULE_BYTES_MAX / PAGE_BYTES,
	FILES_SLOTS = 4 * FILES_MAX,
};

struct file {
	uint64_t dev, inode;
	uint64_t size_bytes;
	int64_t mtime_s, mtime_ns;
	uint32_t pages;   /* of gfns: the file's size, at most FILE_PAGES_MAX */
	uint32_t present; /* entries of gfns that are not 0 */
	uint8_t tries;    /* to find the version, in this round */
	uint32_t *gfns;   /* 0: not known to be in memory. NULL: this file is of no use */
	char name[GMM__REPORT_NAME_MAX + 1];
	char version[GMM__REPORT_VERSION_MAX + 1]; /* empty: not known in this round */
};

struct files {
	struct file *list;  /* FILES_MAX of them */
	size_t count;
	uint64_t pages;     /* sum over list */
	uint32_t *slots;    /* FILES_SLOTS: index + 1, by hash of dev and inode */
};

/* False without memory. */
bool files_init(struct files *files);
void files_clear(struct files *files);
void files_free(struct files *files);

/* The entry of a file, or NULL. files_add makes one (with dev, inode and name only), which must not be there; NULL when
 * there are too many. */
struct file *files_find(struct files *files, uint64_t dev, uint64_t inode);
struct file *files_add(struct files *files, uint64_t dev, uint64_t inode, const char *name);

/* Gives the file its table. False without memory or beyond FILES_PAGES_MAX: the file stays of no use. */
bool files_set_size(struct files *files, struct file *file, uint64_t size_bytes);

/* Makes runs of a file's table; returns how many, at most max, and the digest of everything that a report says of it. 0 when
 * nothing is there or when a gfn came up twice, as happens when pages were moved while we looked. scratch: max runs. */
size_t file_runs(const struct file *file, struct gmm__report_run *ret_runs, struct gmm__report_run *scratch, size_t max,
		 uint64_t *ret_digest);

#endif
