/* The mapped backend's RAM: what it opens of the kernel, creating RAM, judging RAM that the caller brings. */
#include "dedup/mapped.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dedup/backend.h"

#ifndef MADV_NOHUGEPAGE
#define MADV_NOHUGEPAGE 15
#define MADV_HUGEPAGE 14
#endif

enum { STAGING_BYTES = GMM__STAGINGS * GMM__STAGING_PAGES * GMM__PAGE_BYTES, POLICY_BITS = 1024 };

/* ---- the instance's descriptors and staging ---------------------------------------------------------------- */

static int open_staging(struct gmm *gmm)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	intptr_t staging = sys->map(NULL, STAGING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (gmm__is_errno(staging))
		return GMM_ERR_NO_MEMORY;
	uint8_t *pages = (uint8_t *)staging;
	for (uint64_t i = 0; i < GMM__STAGINGS; i++)
		gmm->staging[i].pages = pages + i * GMM__STAGING_PAGES * GMM__PAGE_BYTES;
	sys->advise(pages, STAGING_BYTES, MADV_NOHUGEPAGE);
	/* Where new memory is locked (mlockall), staging is full from the start, and cannot be emptied. */
	if (sys->advise(pages, STAGING_BYTES, MADV_DONTNEED) != 0) {
		gmm__log(gmm, GMM_LOG_ERROR, "the process locks its memory (mlockall): pages cannot be shared");
		return GMM_ERR_SYSTEM;
	}
	/* A fork would make its pages not exclusive, and moving them back impossible. */
	if (sys->advise(pages, STAGING_BYTES, MADV_DONTFORK) != 0 ||
	    sys->advise(pages, STAGING_BYTES, MADV_DONTDUMP) != 0 ||
	    sys->uffd_watch(gmm->track_uffd, pages, STAGING_BYTES, GMM__WATCH_WP) != 0)
		return GMM_ERR_SYSTEM;
	return GMM_OK;
}

int gmm__mapped_open(struct gmm *gmm)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);

	gmm->track_uffd = sys->uffd_open(GMM__UFFD_TRACK);
	gmm->freeze_uffd = sys->uffd_open(GMM__UFFD_FREEZE);
	gmm->pagemap = sys->pagemap_open();
	if (gmm->options.repair == GMM_REPAIR_ASK)
		gmm->maps = sys->maps_open();
	int status = gmm->track_uffd < 0 || gmm->freeze_uffd < 0 || gmm->pagemap < 0 ? GMM_ERR_SYSTEM : GMM_OK;
	if (status == GMM_OK)
		status = open_staging(gmm);
	if (status != GMM_OK)
		gmm__mapped_close(gmm);
	return status;
}

void gmm__mapped_close(struct gmm *gmm)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);

	if (gmm->staging[0].pages) /* they are side by side */
		sys->unmap(gmm->staging[0].pages, STAGING_BYTES);
	for (int i = 0; i < GMM__STAGINGS; i++)
		gmm->staging[i].pages = NULL;
	if (gmm->track_uffd >= 0)
		sys->file_close(gmm->track_uffd);
	if (gmm->freeze_uffd >= 0)
		sys->file_close(gmm->freeze_uffd);
	if (gmm->pagemap >= 0)
		sys->file_close(gmm->pagemap);
	if (gmm->maps >= 0)
		sys->file_close(gmm->maps);
	gmm->track_uffd = gmm->freeze_uffd = gmm->pagemap = gmm->maps = -1;
}

/* ---- RAM -------------------------------------------------------------------------------------------------- */

int gmm__mapped_create_ram(struct gmm *gmm, uint64_t bytes, uint8_t **ret_host)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint64_t room = bytes + GMM__CHUNK_BYTES;
	intptr_t p = sys->map(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (gmm__is_errno(p))
		return GMM_ERR_NO_MEMORY;
	uintptr_t start = (uintptr_t)p, host = (start + GMM__CHUNK_BYTES - 1) & ~(GMM__CHUNK_BYTES - 1);
	if (host > start)
		sys->unmap((void *)start, host - start);
	if (start + room > host + bytes)
		sys->unmap((void *)(host + bytes), start + room - (host + bytes));
	sys->advise((void *)host, bytes, MADV_NOHUGEPAGE);
	*ret_host = (uint8_t *)host;
	return GMM_OK;
}

void gmm__mapped_set_attributes(const struct gmm__slot *slot, uint8_t *host, uint64_t bytes, bool anonymous)
{
	const struct gmm__sys *sys = gmm__sys_of(slot->vm->gmm);
	const struct gmm__ram_attributes *attributes = &slot->attributes;

	if (attributes->dont_fork)
		sys->advise(host, bytes, MADV_DONTFORK);
	if (attributes->dont_dump)
		sys->advise(host, bytes, MADV_DONTDUMP);
	if (attributes->no_huge && anonymous)
		sys->advise(host, bytes, MADV_NOHUGEPAGE);
	if (attributes->policy != 0)
		sys->policy_set(host, bytes, attributes->policy, attributes->nodes, POLICY_BITS);
}

void gmm__mapped_allow_huge(const struct gmm__slot *slot, uint8_t *host, uint64_t bytes)
{
	if (slot->attributes.huge)
		gmm__sys_of(slot->vm->gmm)->advise(host, bytes, MADV_HUGEPAGE);
}

int gmm__mapped_watch(struct gmm__slot *slot)
{
	struct gmm *gmm = slot->vm->gmm;
	int rc = gmm__sys_of(gmm)->uffd_watch(gmm->track_uffd, slot->host, (uint64_t)slot->pages * GMM__PAGE_BYTES,
					      GMM__WATCH_WP);

	if (rc == 0)
		return GMM_OK;
	return rc == -EBUSY ? GMM_ERR_RAM_WATCHED : rc == -ENOMEM ? GMM_ERR_NO_MEMORY : GMM_ERR_SYSTEM;
}

void gmm__mapped_unwatch(struct gmm__slot *slot)
{
	struct gmm *gmm = slot->vm->gmm;

	gmm__sys_of(gmm)->uffd_unwatch(gmm->track_uffd, slot->host, (uint64_t)slot->pages * GMM__PAGE_BYTES);
}

/* ---- judging the caller's memory: smaps ------------------------------------------------------------------------ */

/* One mapping as smaps tells it. */
struct mapping {
	uint64_t start, end;
	char perms[5];
	uint64_t inode;
	bool special_name; /* [stack], [vdso] ... */
	bool locked, hugetlb, mergeable, watched, dont_fork, dont_dump, no_huge, huge, special;
};

static bool parse_header(const char *line, struct mapping *m)
{
	unsigned long long start, end, inode;
	char perms[5];
	int name = 0;

	if (sscanf(line, "%llx-%llx %4s %*x %*x:%*x %llu %n", &start, &end, perms, &inode, &name) < 4)
		return false;
	*m = (struct mapping){ .start = start, .end = end, .inode = inode };
	memcpy(m->perms, perms, sizeof perms);
	m->special_name = name && line[name] == '[' && strncmp(line + name, "[anon:", 6) != 0 &&
			  strncmp(line + name, "[heap]", 6) != 0;
	return true;
}

static bool has_flag(const char *flags, const char *flag)
{
	for (const char *p = strstr(flags, flag); p; p = strstr(p + 1, flag))
		if (p[-1] == ' ' && (p[2] == ' ' || p[2] == '\n'))
			return true;
	return false;
}

static void parse_flags(const char *line, struct mapping *m)
{
	m->locked = has_flag(line, "lo");
	m->hugetlb = has_flag(line, "ht");
	m->mergeable = has_flag(line, "mg");
	m->watched = has_flag(line, "um") || has_flag(line, "uw") || has_flag(line, "ui");
	m->dont_fork = has_flag(line, "dc");
	m->dont_dump = has_flag(line, "dd");
	m->no_huge = has_flag(line, "nh");
	m->huge = has_flag(line, "hg");
	m->special = has_flag(line, "io") || has_flag(line, "pf") || has_flag(line, "gd") || has_flag(line, "wf");
}

static int judge(const struct mapping *m)
{
	if (m->hugetlb)
		return GMM_ERR_RAM_HUGETLB;
	if (m->perms[3] == 's')
		return GMM_ERR_RAM_SHARED;
	if (m->special_name || m->special)
		return GMM_ERR_RAM_SPECIAL;
	if (m->inode != 0)
		return GMM_ERR_RAM_FILE;
	if (m->perms[0] != 'r' || m->perms[1] != 'w')
		return GMM_ERR_RAM_NOT_WRITABLE;
	if (m->locked)
		return GMM_ERR_RAM_LOCKED;
	if (m->mergeable)
		return GMM_ERR_RAM_MERGEABLE;
	if (m->watched)
		return GMM_ERR_RAM_WATCHED;
	return GMM_OK;
}

/* Goes through smaps from `start` on. Attributes are those of the first mapping. */
static int inspect_text(FILE *smaps, uint64_t start, uint64_t end, struct gmm__ram_attributes *attributes)
{
	char line[1024];
	struct mapping m = { 0 };
	uint64_t next = start;

	while (next < end && fgets(line, sizeof line, smaps)) {
		if (parse_header(line, &m)) {
			if (m.start > next)
				return GMM_ERR_RAM_NOT_MAPPED;
			continue;
		}
		if (m.end <= next || strncmp(line, "VmFlags:", 8) != 0)
			continue;
		parse_flags(line, &m);
		int status = judge(&m);
		if (status != GMM_OK)
			return status;
		if (next == start) {
			attributes->dont_fork = m.dont_fork;
			attributes->dont_dump = m.dont_dump;
			attributes->no_huge = m.no_huge;
			attributes->huge = m.huge;
		}
		next = m.end;
	}
	return next < end ? GMM_ERR_RAM_NOT_MAPPED : GMM_OK;
}

static int inspect_smaps(uintptr_t start, uintptr_t end, struct gmm__ram_attributes *ret)
{
	/* This thread's: that of a main thread that has ended is empty. */
	FILE *smaps = fopen("/proc/thread-self/smaps", "re");

	if (!smaps)
		return GMM_ERR_SYSTEM;
	*ret = (struct gmm__ram_attributes){ 0 };
	int status = inspect_text(smaps, start, end, ret);
	fclose(smaps);
	return status;
}

struct inspection {
	struct gmm *gmm;
	const uint8_t *host;
	uint64_t bytes;
	struct gmm__ram_attributes attributes;
	int status;
};

static void inspect(void *arg)
{
	struct inspection *inspection = arg;
	uintptr_t start = (uintptr_t)inspection->host;

	if (gmm__mapped_find_plain(inspection->gmm, inspection->host, inspection->bytes, &inspection->attributes))
		inspection->status = GMM_OK;
	else
		inspection->status = inspect_smaps(start, start + inspection->bytes, &inspection->attributes);
}

int gmm__mapped_inspect_ram(struct gmm *gmm, const uint8_t *host, uint64_t bytes, struct gmm__ram_attributes *ret)
{
	struct inspection inspection = { .gmm = gmm, .host = host, .bytes = bytes };

	gmm__sys_of(gmm)->run(inspect, &inspection);
	if (inspection.status != GMM_OK)
		return inspection.status;
	struct gmm__ram_attributes attributes = inspection.attributes;
	/* A kernel without NUMA refuses the question: then there is no policy to keep. */
	if (gmm__sys_of(gmm)->policy_get((void *)(uintptr_t)host, &attributes.policy, attributes.nodes, POLICY_BITS) != 0)
		attributes.policy = 0;
	*ret = attributes;
	return GMM_OK;
}
