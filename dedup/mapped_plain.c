/* Learns the attributes of memory that is about to be adopted without reading smaps, which walks the page tables
 * of everything below it: milliseconds for each VM in the process that has its memory.
 *
 * The kernel joins two anonymous mappings side by side into one when they have the same attributes, all of them. So a page
 * beside the caller's mapping is mapped with attributes that are known, and PROCMAP_QUERY tells whether it has been joined.
 * What this does not find (no room beside it, an older kernel, anything unusual) is left to smaps, which also says what is
 * wrong with memory that cannot be adopted.
 */
#include "dedup/mapped.h"

#include <errno.h>
#include <sys/mman.h>

struct probe {
	const struct gmm__sys *sys;
	int maps;
	uint8_t *at;
	const uint8_t *ram;
	const uint8_t *ram_end;
};

static bool is_joined(const struct probe *probe)
{
	void *start, *end;

	return probe->sys->maps_bounds(probe->maps, probe->at, &start, &end) == 0 &&
	       (const uint8_t *)start <= probe->ram && (const uint8_t *)end >= probe->ram_end;
}

static bool advise(const struct probe *probe, int advice)
{
	return probe->sys->advise(probe->at, GMM__PAGE_BYTES, advice) == 0;
}

/* Gives the page these attributes; true when it is one mapping with the RAM then. */
static bool fits(const struct probe *probe, const struct gmm__ram_attributes *attributes)
{
	if (!advise(probe, attributes->dont_fork ? MADV_DONTFORK : MADV_DOFORK) ||
	    !advise(probe, attributes->dont_dump ? MADV_DONTDUMP : MADV_DODUMP) ||
	    (attributes->no_huge && !advise(probe, MADV_NOHUGEPAGE)) ||
	    (attributes->huge && !advise(probe, MADV_HUGEPAGE)))
		return false;
	/* Under mlockall both are locked, which this call refuses. */
	return is_joined(probe) && advise(probe, MADV_DONTNEED);
}

/* Huge page advice cannot be taken back, so a page without any comes first. */
static bool find_attributes(const struct probe *probe, struct gmm__ram_attributes *ret)
{
	enum { DONT_FORK = 1, DONT_DUMP = 2, NO_HUGE = 4, HUGE = 8, COMBINATIONS = 12 };

	/* A process may make all its memory mergeable. EINVAL: the kernel has no such thing. */
	int rc = probe->sys->advise(probe->at, GMM__PAGE_BYTES, MADV_UNMERGEABLE);
	if (rc != 0 && rc != -EINVAL)
		return false;
	for (unsigned i = 0; i < COMBINATIONS; i++) {
		*ret = (struct gmm__ram_attributes){ .dont_fork = i & DONT_FORK, .dont_dump = i & DONT_DUMP,
						     .no_huge = i & NO_HUGE, .huge = i & HUGE };
		if (fits(probe, ret))
			return true;
	}
	return false;
}

static bool try_at(struct probe *probe, uint8_t *at, int reserve, struct gmm__ram_attributes *ret)
{
	intptr_t rc = probe->sys->map(at, GMM__PAGE_BYTES, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | reserve, -1, 0);

	if (gmm__is_errno(rc))
		return false;
	probe->at = (uint8_t *)rc; /* kernels before 4.17 take the address for a hint */
	bool found = find_attributes(probe, ret);
	probe->sys->unmap(probe->at, GMM__PAGE_BYTES);
	return found;
}

bool gmm__mapped_find_plain(struct gmm *gmm, const uint8_t *host, uint64_t bytes, struct gmm__ram_attributes *ret)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	struct probe probe = { .sys = sys, .maps = sys->maps_open(), .ram = host, .ram_end = host + bytes };
	void *start, *end;
	bool found = false;

	if (probe.maps < 0)
		return false;
	if (sys->maps_bounds(probe.maps, host, &start, &end) == 0 && (const uint8_t *)end >= probe.ram_end) {
		uint8_t *beside[] = { end, (uint8_t *)start - GMM__PAGE_BYTES };
		for (int i = 0; i < 2 && !found; i++)
			found = try_at(&probe, beside[i], MAP_NORESERVE, ret) || try_at(&probe, beside[i], 0, ret);
	}
	sys->file_close(probe.maps);
	return found;
}
