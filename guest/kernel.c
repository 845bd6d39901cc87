/* Finds the kernel; see kernel.h. Its data is left out: most of it is written all the time. Modules of the kernel lie in
 * vmalloc memory, whose pages nothing under /proc names. */
#include "guest/kernel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "guest/build_id.h"

static bool read_version(const char *sys, char *ret_version, size_t size)
{
	char path[4096], notes[65536];
	FILE *file;
	size_t bytes;

	snprintf(path, sizeof path, "%s/kernel/notes", sys);
	file = fopen(path, "re");
	if (!file)
		return false;
	bytes = fread(notes, 1, sizeof notes, file);
	fclose(file);
	return build_id_of_notes(notes, bytes, ret_version, size);
}

/* A line is "  01000000-0220bb07 : Kernel code". */
static bool read_line(const char *line, uint64_t *ret_first, uint64_t *ret_end)
{
	uint64_t first, last;
	char what[32];

	if (sscanf(line, " %" SCNx64 "-%" SCNx64 " : %31[^\n]", &first, &last, what) != 3)
		return false;
	if (strcmp(what, "Kernel code") != 0 && strcmp(what, "Kernel rodata") != 0)
		return false;
	/* The page around the end may hold something else as well; its bytes are compared anyhow. */
	*ret_first = first / GMM__REPORT_PAGE_BYTES;
	*ret_end = last / GMM__REPORT_PAGE_BYTES + 1;
	return last > first;
}

static bool add_region(struct kernel *kernel, uint64_t first, uint64_t end)
{
	uint64_t base = kernel->n_regions ? kernel->regions[0].gfn : first;
	uint64_t offset = (first - base) * GMM__REPORT_PAGE_BYTES, size = (end - first) * GMM__REPORT_PAGE_BYTES;

	if (kernel->n_regions == KERNEL_REGIONS_MAX || first < base || offset < kernel->size_bytes ||
	    offset + size > GMM__REPORT_MODULE_BYTES_MAX)
		return false;
	kernel->regions[kernel->n_regions].offset_bytes = offset;
	kernel->regions[kernel->n_regions].size_bytes = size;
	kernel->regions[kernel->n_regions++].gfn = first;
	kernel->size_bytes = offset + size;
	return true;
}

bool kernel_find(const char *proc, const char *sys, struct kernel *ret_kernel)
{
	struct kernel kernel = { 0 };
	char path[4096], line[256];
	struct utsname uts;
	FILE *file;
	uint64_t first, end;
	bool good = true;

	if (uname(&uts) != 0 || !read_version(sys, kernel.version, sizeof kernel.version))
		return false;
	snprintf(kernel.name, sizeof kernel.name, "linux %s", uts.release);
	snprintf(path, sizeof path, "%s/iomem", proc);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (good && fgets(line, sizeof line, file))
		if (read_line(line, &first, &end))
			good = add_region(&kernel, first, end);
	fclose(file);
	/* Without the right to see them all addresses are 0. */
	if (!good || kernel.n_regions == 0 || kernel.regions[0].gfn == 0)
		return false;
	*ret_kernel = kernel;
	return true;
}
