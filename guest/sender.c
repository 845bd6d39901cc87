/* Compares a round with what the host was told; see sender.h. A file is the same one as before if device, inode and digest
 * are, and the digest covers its name, version, size, time and all of its pages. */
#include "guest/sender.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct sender *sender_new(bool (*send)(void *arg, const void *bytes, size_t size), void *arg)
{
	struct sender *sender = calloc(1, sizeof *sender);

	if (!sender)
		return NULL;
	sender->send = send;
	sender->arg = arg;
	sender->digests = calloc(FILES_MAX, sizeof *sender->digests);
	sender->order = calloc(FILES_MAX, sizeof *sender->order);
	if (sender->digests && sender->order)
		return sender;
	sender_free(sender);
	return NULL;
}

void sender_free(struct sender *sender)
{
	if (!sender)
		return;
	free(sender->digests);
	free(sender->order);
	free(sender);
}

static bool send_frame(struct sender *sender)
{
	return sender->send(sender->arg, sender->writer.frame, sender->writer.bytes);
}

bool sender_start(struct sender *sender, uint64_t session)
{
	memset(sender->known, 0, sizeof sender->known);
	sender->known_count = 0;
	gmm__report_write_hello(&sender->writer, session);
	return send_frame(sender);
}

static bool send_changes(struct sender *sender)
{
	if (gmm__report_write_is_empty(&sender->writer))
		return true;
	gmm__report_write_end(&sender->writer);
	if (!send_frame(sender))
		return false;
	gmm__report_write_begin(&sender->writer);
	return true;
}

/* ---- what is the same ------------------------------------------------------------------------------------- */

static uint64_t kernel_digest(const struct kernel *kernel)
{
	uint64_t digest = XXH64(kernel->regions, sizeof kernel->regions, kernel->size_bytes);

	return digest ? digest : 1;
}

static const struct files *sorted_files; /* qsort takes no argument */

static int compare_presence(const void *a, const void *b)
{
	uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
	uint32_t x = sorted_files->list[i].present, y = sorted_files->list[j].present;

	return x != y ? (x > y ? -1 : 1) : (i < j ? -1 : i > j);
}

/* Which files are to be known from now on, and by which digests. One id is kept for the kernel. */
static void choose_files(struct sender *sender, const struct files *files)
{
	uint32_t chosen = 0;

	for (uint32_t i = 0; i < files->count; i++)
		sender->order[i] = i;
	sorted_files = files;
	qsort(sender->order, files->count, sizeof *sender->order, compare_presence);
	memset(sender->digests, 0, FILES_MAX * sizeof *sender->digests);
	for (size_t i = 0; i < files->count && chosen < GMM__REPORT_MODULES_MAX - 1; i++) {
		const struct file *file = &files->list[sender->order[i]];
		uint64_t digest;
		if (file->present == 0 || file->version[0] == 0 ||
		    file_runs(file, sender->runs, sender->scratch, SENDER_RUNS_MAX, &digest) == 0)
			continue;
		sender->digests[sender->order[i]] = digest ? digest : 1;
		chosen++;
	}
}

/* ---- removing --------------------------------------------------------------------------------------------- */

/* The digest that this module should have now; 0: it should not be known. */
static uint64_t wanted_digest(struct sender *sender, uint32_t id, struct files *files, const struct kernel *kernel)
{
	const struct file *file;

	if (sender->known[id].inode == 0 && sender->known[id].dev == 0)
		return kernel ? kernel_digest(kernel) : 0;
	file = files_find(files, sender->known[id].dev, sender->known[id].inode);
	return file ? sender->digests[file - files->list] : 0;
}

/* Removes what is gone or changed, and marks in digests what needs no word: 0. */
static bool remove_old(struct sender *sender, struct files *files, const struct kernel *kernel, bool *ret_kernel_known)
{
	*ret_kernel_known = false;
	for (uint32_t id = 0; id < GMM__REPORT_MODULES_MAX; id++) {
		if (!sender->known[id].used)
			continue;
		bool is_kernel = sender->known[id].inode == 0 && sender->known[id].dev == 0;
		if (sender->known[id].digest == wanted_digest(sender, id, files, kernel)) {
			if (is_kernel)
				*ret_kernel_known = true;
			else
				sender->digests[files_find(files, sender->known[id].dev,
							   sender->known[id].inode) - files->list] = 0;
			continue;
		}
		while (!gmm__report_write_remove(&sender->writer, id))
			if (!send_changes(sender))
				return false;
		sender->known[id].used = false;
		sender->known_count--;
	}
	return true;
}

/* ---- adding ----------------------------------------------------------------------------------------------- */

static uint32_t free_id(const struct sender *sender, uint32_t from)
{
	while (sender->known[from].used)
		from++; /* never more modules than ids: choose_files */
	return from;
}

static bool add_module(struct sender *sender, struct gmm__report_write_module *module, uint64_t dev, uint64_t inode,
		       uint64_t digest)
{
	module->id = free_id(sender, 0);
	if (!gmm__report_write_add(&sender->writer, module)) {
		if (!send_changes(sender))
			return false;
		if (!gmm__report_write_add(&sender->writer, module))
			return true; /* larger than a frame: SENDER_RUNS_MAX prevents it */
	}
	sender->known[module->id].used = true;
	sender->known[module->id].dev = dev;
	sender->known[module->id].inode = inode;
	sender->known[module->id].digest = digest;
	sender->known_count++;
	return true;
}

static bool add_kernel(struct sender *sender, const struct kernel *kernel)
{
	struct gmm__report_run runs[KERNEL_REGIONS_MAX];
	struct gmm__report_write_region regions[KERNEL_REGIONS_MAX];
	struct gmm__report_write_module module = {
		.kind = GMM__REPORT_KERNEL,
		.name = kernel->name,
		.version = kernel->version,
		.size_bytes = kernel->size_bytes,
		.n_regions = kernel->n_regions,
		.regions = regions,
	};

	for (uint32_t i = 0; i < kernel->n_regions; i++) {
		runs[i] = (struct gmm__report_run){
			.count = (uint32_t)(kernel->regions[i].size_bytes / PAGE_BYTES), .gfn = kernel->regions[i].gfn,
		};
		regions[i] = (struct gmm__report_write_region){
			kernel->regions[i].offset_bytes, kernel->regions[i].size_bytes, &runs[i], 1,
		};
	}
	return add_module(sender, &module, 0, 0, kernel_digest(kernel));
}

static bool add_file(struct sender *sender, const struct file *file, uint64_t digest)
{
	uint64_t same;
	struct gmm__report_write_region region = {
		.size_bytes = (uint64_t)file->pages * PAGE_BYTES,
		.runs = sender->runs,
		.n_runs = (uint32_t)file_runs(file, sender->runs, sender->scratch, SENDER_RUNS_MAX, &same),
	};
	struct gmm__report_write_module module = {
		.kind = GMM__REPORT_FILE,
		.name = file->name,
		.version = file->version,
		.size_bytes = file->size_bytes,
		.n_regions = 1,
		.regions = &region,
	};

	return add_module(sender, &module, file->dev, file->inode, digest);
}

bool sender_report(struct sender *sender, struct files *files, const struct kernel *kernel)
{
	bool kernel_known;

	choose_files(sender, files);
	gmm__report_write_begin(&sender->writer);
	if (!remove_old(sender, files, kernel, &kernel_known))
		return false;
	if (kernel && !kernel_known && !add_kernel(sender, kernel))
		return false;
	for (size_t i = 0; i < files->count; i++)
		if (sender->digests[sender->order[i]] != 0 &&
		    !add_file(sender, &files->list[sender->order[i]], sender->digests[sender->order[i]]))
			return false;
	if (!send_changes(sender))
		return false;
	gmm__report_write_done(&sender->writer, sender->known_count);
	return send_frame(sender);
}
