/* The table of mapped files; see files.h. */
#include "guest/files.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

bool files_init(struct files *files)
{
	*files = (struct files){
		.list = calloc(FILES_MAX, sizeof *files->list),
		.slots = calloc(FILES_SLOTS, sizeof *files->slots),
	};
	if (files->list && files->slots)
		return true;
	files_free(files);
	return false;
}

void files_clear(struct files *files)
{
	for (size_t i = 0; i < files->count; i++)
		free(files->list[i].gfns);
	memset(files->list, 0, files->count * sizeof *files->list);
	memset(files->slots, 0, FILES_SLOTS * sizeof *files->slots);
	files->count = 0;
	files->pages = 0;
}

void files_free(struct files *files)
{
	if (files->list && files->slots)
		files_clear(files);
	free(files->list);
	free(files->slots);
	*files = (struct files){ 0 };
}

/* Where the file is in slots, or where it would be. There is always room, as there are more slots than files. */
static uint32_t *slot_of(struct files *files, uint64_t dev, uint64_t inode)
{
	uint64_t key[] = { dev, inode };
	size_t at = XXH64(key, sizeof key, 0) % FILES_SLOTS;

	for (;; at = (at + 1) % FILES_SLOTS) {
		uint32_t slot = files->slots[at];
		if (slot == 0 || (files->list[slot - 1].dev == dev && files->list[slot - 1].inode == inode))
			return &files->slots[at];
	}
}

struct file *files_find(struct files *files, uint64_t dev, uint64_t inode)
{
	uint32_t slot = *slot_of(files, dev, inode);

	return slot ? &files->list[slot - 1] : NULL;
}

/* The host takes no control characters, and no more than so many bytes; the end of a path tells more than its start. */
static void set_name(struct file *file, const char *name)
{
	size_t length = strlen(name);

	if (length > GMM__REPORT_NAME_MAX)
		name += length - GMM__REPORT_NAME_MAX;
	for (size_t i = 0; name[i]; i++)
		file->name[i] = (unsigned char)name[i] < ' ' || name[i] == 0x7f ? '?' : name[i];
}

struct file *files_add(struct files *files, uint64_t dev, uint64_t inode, const char *name)
{
	struct file *file;

	if (files->count == FILES_MAX)
		return NULL;
	file = &files->list[files->count++];
	*slot_of(files, dev, inode) = (uint32_t)files->count;
	file->dev = dev;
	file->inode = inode;
	set_name(file, name);
	return file;
}

bool files_set_size(struct files *files, struct file *file, uint64_t size_bytes)
{
	uint64_t pages = size_bytes / PAGE_BYTES + (size_bytes % PAGE_BYTES != 0);

	if (pages > FILE_PAGES_MAX)
		pages = FILE_PAGES_MAX;
	if (pages == 0 || pages > FILES_PAGES_MAX - files->pages)
		return false;
	file->gfns = calloc(pages, sizeof *file->gfns);
	if (!file->gfns)
		return false;
	file->size_bytes = size_bytes;
	file->pages = (uint32_t)pages;
	files->pages += pages;
	return true;
}

static int compare_gfns(const void *a, const void *b)
{
	uint64_t x = ((const struct gmm__report_run *)a)->gfn, y = ((const struct gmm__report_run *)b)->gfn;

	return x < y ? -1 : x > y;
}

static bool has_gfn_twice(const struct gmm__report_run *runs, size_t count, struct gmm__report_run *scratch)
{
	memcpy(scratch, runs, count * sizeof *runs);
	qsort(scratch, count, sizeof *scratch, compare_gfns);
	for (size_t i = 1; i < count; i++)
		if (scratch[i].gfn - scratch[i - 1].gfn < scratch[i - 1].count)
			return true;
	return false;
}

static uint64_t digest_of(const struct file *file, const struct gmm__report_run *runs, size_t count)
{
	uint64_t parts[] = {
		XXH64(runs, count * sizeof *runs, 0),
		XXH64(file->name, sizeof file->name, 0),
		XXH64(file->version, sizeof file->version, 0),
		file->size_bytes, (uint64_t)file->mtime_s, (uint64_t)file->mtime_ns,
	};

	return XXH64(parts, sizeof parts, 0);
}

size_t file_runs(const struct file *file, struct gmm__report_run *ret_runs, struct gmm__report_run *scratch, size_t max,
		 uint64_t *ret_digest)
{
	struct gmm__report_run *last = NULL;
	size_t count = 0;

	for (uint32_t page = 0; page < file->pages; page++) {
		uint32_t gfn = file->gfns[page];
		if (gfn == 0)
			continue;
		if (last && last->page + last->count == page && last->gfn + last->count == gfn) {
			last->count++;
			continue;
		}
		if (count == max)
			break; /* what is left is found by scanning */
		last = &ret_runs[count++];
		*last = (struct gmm__report_run){ .page = page, .count = 1, .gfn = gfn };
	}
	if (count == 0 || has_gfn_twice(ret_runs, count, scratch))
		return 0;
	*ret_digest = digest_of(file, ret_runs, count);
	return count;
}
