/* Page tables and registers as a hostile guest might set them: the walk must end, ask for no more than five pages, all of
 * them addressable, and what it returns must fit together.
 *
 * Input: registers, the linear address, how many pages there are, then pairs of a place and an entry. */
#include "sharedmod/walker.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

enum { PAGES = 8, PAGE = 4096 };

static _Alignas(PAGE) uint8_t pages[PAGES][PAGE];
static unsigned reads;

struct head {
	uint64_t cr0, cr3, cr4, efer, linear;
	uint8_t phys_bits, pages, unused[6];
};

static const void *page(void *arg, uint64_t gfn)
{
	const struct head *head = arg;

	fuzz_check(gfn < 1ull << 40);
	fuzz_check(++reads <= 5);
	return gfn % PAGES < head->pages ? pages[gfn % PAGES] : NULL;
}

static void check_hit(const struct head *head, const struct gmm__walk *walk)
{
	uint64_t offset = walk->page_bytes - 1;

	fuzz_check(walk->page_bytes == 4096 || walk->page_bytes == 2 << 20 || walk->page_bytes == 4 << 20 ||
		   walk->page_bytes == 1 << 30);
	fuzz_check((walk->gpa & offset) == (head->linear & offset));
	fuzz_check(walk->gpa >> head->phys_bits == 0 || (head->phys_bits == 32 && walk->gpa >> 32 == 0));
	fuzz_check(!walk->user_writable || (walk->user && walk->writable));
	fuzz_check(walk->writable || head->cr0 >> 16 & 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct head head;
	struct gmm__walk walk = { .gpa = 1 };
	struct gmm__walk_cpu cpu;
	enum gmm__walk_outcome outcome;

	if (size < sizeof head)
		return 0;
	memcpy(&head, data, sizeof head);
	memset(pages, 0, sizeof pages);
	for (size_t at = sizeof head; at + 10 <= size; at += 10) {
		uint16_t place;
		memcpy(&place, data + at, 2);
		memcpy((uint64_t *)(void *)pages + place % (sizeof pages / 8), data + at + 2, 8);
	}
	cpu = (struct gmm__walk_cpu){ head.cr0, head.cr3, head.cr4, head.efer, head.phys_bits };
	reads = 0;
	outcome = gmm__walk(&cpu, head.linear, page, &head, &walk);
	fuzz_check((unsigned)outcome < GMM__WALK_OUTCOMES);
	fuzz_check((outcome == GMM__WALK_BAD_REGISTERS) == (gmm__walk_mode(&cpu) == GMM__WALK_INVALID));
	if (outcome == GMM__WALK_OK)
		check_hit(&head, &walk);
	else
		fuzz_check(walk.gpa == 1);
	return 0;
}
