/* Checks of report frames; see report_check.h. Every number is checked before it is used, and sums are made in 64 bits from
 * 32-bit parts, so that none can wrap. */
#include "sharedmod/report_check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum gmm__report_fault gmm__report_check_header(const struct gmm__report_header *header)
{
	if (memcmp(header->magic, GMM__REPORT_MAGIC, GMM__REPORT_MAGIC_BYTES) != 0 || header->reserved != 0 ||
	    header->header_hash != XXH32(header, offsetof(struct gmm__report_header, header_hash), 0))
		return GMM__REPORT_NOT_A_FRAME;
	if (header->version != GMM__REPORT_VERSION)
		return GMM__REPORT_BAD_VERSION;
	if (header->type < GMM__REPORT_HELLO || header->type > GMM__REPORT_DONE)
		return GMM__REPORT_BAD_TYPE;
	if (header->payload_bytes > GMM__REPORT_PAYLOAD_MAX || header->payload_bytes % 8 != 0)
		return GMM__REPORT_BAD_LENGTH;
	return GMM__REPORT_FINE;
}

enum gmm__report_fault gmm__report_check_hello(const struct gmm__report_hello *hello, size_t bytes)
{
	if (bytes != sizeof *hello)
		return GMM__REPORT_BAD_LENGTH;
	if (hello->page_bytes != GMM__REPORT_PAGE_BYTES || hello->os != GMM__REPORT_OS_LINUX)
		return GMM__REPORT_BAD_HELLO;
	return GMM__REPORT_FINE;
}

static size_t round_up_8(size_t bytes)
{
	return (bytes + 7) & ~(size_t)7;
}

/* What lies where in an ADD record. Only what is inside the record has been looked at. */
struct parts {
	const struct gmm__report_add *add;
	const char *name, *version;
	size_t text_bytes; /* name, version and zeros */
	const struct gmm__report_region *regions;
	const struct gmm__report_run *runs;
	size_t n_runs;
};

/* False if the record is not exactly as long as its parts. */
static bool find_parts(const struct gmm__report_record *record, struct parts *ret_parts)
{
	const char *at = (const char *)record;
	struct parts parts;
	size_t left = record->bytes, regions_bytes;
	uint64_t runs = 0;

	if (left < sizeof *record + sizeof *parts.add)
		return false;
	parts.add = (const void *)(at + sizeof *record);
	parts.name = at + sizeof *record + sizeof *parts.add;
	left -= sizeof *record + sizeof *parts.add;
	parts.version = parts.name + parts.add->name_bytes + 1;
	parts.text_bytes = round_up_8((size_t)parts.add->name_bytes + parts.add->version_bytes + 2);
	regions_bytes = parts.add->regions * sizeof *parts.regions;
	if (left < parts.text_bytes + regions_bytes)
		return false;
	left -= parts.text_bytes + regions_bytes;
	parts.regions = (const void *)(parts.name + parts.text_bytes);
	for (size_t i = 0; i < parts.add->regions; i++)
		runs += parts.regions[i].runs;
	if (runs != left / sizeof *parts.runs || left % sizeof *parts.runs != 0)
		return false;
	parts.runs = (const void *)(parts.name + parts.text_bytes + regions_bytes);
	parts.n_runs = (size_t)runs;
	*ret_parts = parts;
	return true;
}

/* No control characters: names end up in logs and on terminals. */
static bool text_valid(const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return text[bytes] == 0;
}

static enum gmm__report_fault check_names(const struct parts *parts)
{
	size_t used = (size_t)parts->add->name_bytes + parts->add->version_bytes + 2;

	if (parts->add->name_bytes == 0 || parts->add->name_bytes > GMM__REPORT_NAME_MAX ||
	    parts->add->version_bytes > GMM__REPORT_VERSION_MAX)
		return GMM__REPORT_BAD_NAME;
	if (!text_valid(parts->name, parts->add->name_bytes) || !text_valid(parts->version, parts->add->version_bytes))
		return GMM__REPORT_BAD_NAME;
	for (; used < parts->text_bytes; used++)
		if (parts->name[used] != 0)
			return GMM__REPORT_BAD_NAME;
	return GMM__REPORT_FINE;
}

static enum gmm__report_fault check_regions(const struct parts *parts)
{
	uint64_t end = 0, sum = 0;

	for (size_t i = 0; i < parts->add->regions; i++) {
		const struct gmm__report_region *region = &parts->regions[i];

		if (region->reserved != 0 || region->offset_bytes % GMM__REPORT_PAGE_BYTES != 0 ||
		    region->size_bytes % GMM__REPORT_PAGE_BYTES != 0 || region->size_bytes == 0 ||
		    region->size_bytes > GMM__REPORT_MODULE_BYTES_MAX || region->offset_bytes < end ||
		    region->offset_bytes >= parts->add->size_bytes)
			return GMM__REPORT_BAD_REGION;
		sum += region->size_bytes;
		end = region->offset_bytes + region->size_bytes;
		/* The last page may reach beyond the end of the file. */
		if (sum > GMM__REPORT_MODULE_BYTES_MAX ||
		    end > parts->add->size_bytes + GMM__REPORT_PAGE_BYTES - 1)
			return GMM__REPORT_BAD_REGION;
	}
	return GMM__REPORT_FINE;
}

static enum gmm__report_fault check_region_runs(const struct gmm__report_region *region,
						const struct gmm__report_run *runs, uint64_t gfn_end,
						uint64_t *pages)
{
	uint64_t next = 0, region_pages = region->size_bytes / GMM__REPORT_PAGE_BYTES;

	for (uint32_t i = 0; i < region->runs; i++) {
		if (runs[i].count == 0 || runs[i].page < next ||
		    (uint64_t)runs[i].page + runs[i].count > region_pages)
			return GMM__REPORT_BAD_RUN;
		if (runs[i].gfn >= gfn_end || runs[i].count > gfn_end - runs[i].gfn)
			return GMM__REPORT_BAD_GFN;
		next = (uint64_t)runs[i].page + runs[i].count;
		*pages += runs[i].count;
	}
	return GMM__REPORT_FINE;
}

static int compare_gfns(const void *a, const void *b)
{
	uint64_t x = ((const struct gmm__report_run *)a)->gfn, y = ((const struct gmm__report_run *)b)->gfn;

	return x < y ? -1 : x > y;
}

/* One page of memory is at one place of one file. */
static bool has_gfn_twice(const struct parts *parts, struct gmm__report_scratch *scratch)
{
	memcpy(scratch->runs, parts->runs, parts->n_runs * sizeof *parts->runs);
	qsort(scratch->runs, parts->n_runs, sizeof *scratch->runs, compare_gfns);
	for (size_t i = 1; i < parts->n_runs; i++)
		if (scratch->runs[i].gfn - scratch->runs[i - 1].gfn < scratch->runs[i - 1].count)
			return true;
	return false;
}

static enum gmm__report_fault check_runs(const struct parts *parts, const struct gmm__report_limits *limits,
					 struct gmm__report_scratch *scratch, uint64_t *pages)
{
	const struct gmm__report_run *runs = parts->runs;
	enum gmm__report_fault fault;

	for (size_t i = 0; i < parts->add->regions; i++) {
		fault = check_region_runs(&parts->regions[i], runs, limits->gfn_end, pages);
		if (fault)
			return fault;
		runs += parts->regions[i].runs;
	}
	return has_gfn_twice(parts, scratch) ? GMM__REPORT_BAD_GFN : GMM__REPORT_FINE;
}

static enum gmm__report_fault note_added(const struct gmm__report_record *record, const struct parts *parts,
					 uint64_t pages, const struct gmm__report_limits *limits,
					 struct gmm__report_known *known)
{
	if (parts->n_runs > limits->max_runs || known->runs > limits->max_runs - parts->n_runs)
		return GMM__REPORT_TOO_MANY_RUNS;
	if (pages > limits->max_pages || known->pages > limits->max_pages - pages)
		return GMM__REPORT_TOO_MANY_PAGES;
	known->module[record->id].used = 1;
	known->module[record->id].runs = (uint32_t)parts->n_runs;
	known->module[record->id].pages = (uint32_t)pages & 0x7fffffff; /* at most 2^18: a module's size is limited */
	known->runs += (uint32_t)parts->n_runs;
	known->pages += pages;
	known->modules++;
	return GMM__REPORT_FINE;
}

static enum gmm__report_fault check_add(const struct gmm__report_record *record,
					const struct gmm__report_limits *limits, struct gmm__report_known *known,
					struct gmm__report_scratch *scratch, uint64_t *ret_pages)
{
	enum gmm__report_fault fault;
	struct parts parts;
	uint64_t pages = 0;

	if (known->module[record->id].used)
		return GMM__REPORT_BAD_ID;
	if (!find_parts(record, &parts))
		return GMM__REPORT_BAD_LENGTH;
	if (parts.add->kind < GMM__REPORT_KERNEL || parts.add->kind >= GMM__REPORT_MODULE_KINDS ||
	    parts.add->reserved != 0 || parts.add->regions == 0 || parts.add->regions > GMM__REPORT_REGIONS_MAX ||
	    parts.add->size_bytes > 1ull << 62)
		return GMM__REPORT_BAD_RECORD;
	fault = check_names(&parts);
	if (!fault)
		fault = check_regions(&parts);
	if (!fault)
		fault = check_runs(&parts, limits, scratch, &pages);
	*ret_pages += pages;
	/* Also where modules are added and removed in turns. */
	if (!fault && *ret_pages > limits->max_pages)
		fault = GMM__REPORT_TOO_MANY_PAGES;
	return fault ? fault : note_added(record, &parts, pages, limits, known);
}

static enum gmm__report_fault check_remove(const struct gmm__report_record *record, struct gmm__report_known *known)
{
	if (record->bytes != sizeof *record)
		return GMM__REPORT_BAD_LENGTH;
	if (!known->module[record->id].used)
		return GMM__REPORT_BAD_ID;
	known->module[record->id].used = 0;
	known->runs -= known->module[record->id].runs;
	known->pages -= known->module[record->id].pages;
	known->modules--;
	return GMM__REPORT_FINE;
}

enum gmm__report_fault gmm__report_check_changes(const void *payload, size_t bytes, const struct gmm__report_limits *limits,
						 struct gmm__report_known *known, struct gmm__report_scratch *scratch,
						 uint64_t *ret_pages)
{
	const char *at = payload;
	enum gmm__report_fault fault;

	*ret_pages = 0;
	while (bytes > 0) {
		const struct gmm__report_record *record = (const void *)at;

		if (bytes < sizeof *record || record->bytes < sizeof *record || record->bytes > bytes ||
		    record->bytes % 8 != 0)
			return GMM__REPORT_BAD_LENGTH;
		if (record->reserved != 0)
			return GMM__REPORT_BAD_RECORD;
		if (record->id >= GMM__REPORT_MODULES_MAX)
			return GMM__REPORT_BAD_ID;
		if (record->kind == GMM__REPORT_ADD)
			fault = check_add(record, limits, known, scratch, ret_pages);
		else if (record->kind == GMM__REPORT_REMOVE)
			fault = check_remove(record, known);
		else
			fault = GMM__REPORT_BAD_RECORD;
		if (fault)
			return fault;
		at += record->bytes;
		bytes -= record->bytes;
	}
	return GMM__REPORT_FINE;
}

void gmm__report_unpack(const struct gmm__report_record *record, struct gmm__report_module *ret_module)
{
	const struct gmm__report_run *runs;
	struct parts parts;

	if (!find_parts(record, &parts))
		return; /* has been checked */
	ret_module->id = record->id;
	ret_module->kind = parts.add->kind;
	ret_module->name = parts.name;
	ret_module->version = parts.version;
	ret_module->size_bytes = parts.add->size_bytes;
	ret_module->n_regions = parts.add->regions;
	runs = parts.runs;
	for (size_t i = 0; i < parts.add->regions; i++) {
		ret_module->regions[i] = (struct gmm__report_module_region){
			.offset_bytes = parts.regions[i].offset_bytes,
			.size_bytes = parts.regions[i].size_bytes,
			.runs = runs,
			.n_runs = parts.regions[i].runs,
		};
		runs += parts.regions[i].runs;
	}
}
