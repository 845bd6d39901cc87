/* Telling the sharing service about modules; see tell.h. */
#include "sharedmod/tell.h"

#include <string.h>
#include <xxhash.h>

#include "dedup/remote.h"
#include "dedup/visit.h"
#include "sharedmod/check.h"
#include "wire/protocol.h"

_Static_assert((int)GMM__WIRE_MODULE_NAME == (int)GMM_MODULE_NAME_MAX + 1 &&
	       (int)GMM__WIRE_MODULE_VERSION == (int)GMM_MODULE_VERSION_MAX + 1, "names fit their messages");
_Static_assert(GMM__WIRE_MODULE_BYTES == GMM_MODULE_BYTES_MAX, "the protocol's modules are the interface's");
_Static_assert(GMM__WIRE_NO_GFN == GMM__NO_GFN, "absent pages are alike");

enum { VM_PAGES_MIN = 64 * 1024 };

struct teller {
	struct gmm__remote *remote;
	const struct gmm__backend *backend;
	uint64_t pages_left;          /* of the VM, to be looked at */
	bool cut;                     /* the record is not told whole */
	struct gmm__wire_module head; /* of the message that is being filled */
	uint32_t pages;               /* of its runs; and those of them that are in memory */
	uint32_t named;
	struct gmm__wire_module_run run[GMM__WIRE_MODULE_RUNS];
};

/* ---- messages ----------------------------------------------------------------------------------------------------- */

static void send_part(struct teller *t)
{
	struct iovec parts[2] = { { &t->head, sizeof t->head }, { t->run, t->head.n * sizeof *t->run } };

	gmm__remote_tell(t->remote, parts, t->head.n ? 2 : 1);
	t->head.first += t->pages;
	t->head.n = t->pages = t->named = 0;
}

/* Adds pages to the message, to its last run if they follow it. */
static void put_run(struct teller *t, uint32_t gfn, uint32_t pages)
{
	struct gmm__wire_module_run *last = t->head.n ? &t->run[t->head.n - 1] : NULL;

	if (last && (gfn == GMM__NO_GFN ? last->gfn == GMM__NO_GFN :
		     last->gfn != GMM__NO_GFN && last->gfn + last->pages == gfn))
		last->pages += pages;
	else
		t->run[t->head.n++] = (struct gmm__wire_module_run){ gfn, pages };
	t->pages += pages;
}

static void add_pages(struct teller *t, uint32_t gfn, uint32_t pages)
{
	for (uint32_t n; pages > 0; pages -= n) {
		if (t->head.n == GMM__WIRE_MODULE_RUNS || (gfn != GMM__NO_GFN && t->named == GMM__WIRE_MODULE_PAGES))
			send_part(t);
		n = pages;
		if (gfn != GMM__NO_GFN && n > GMM__WIRE_MODULE_PAGES - t->named)
			n = GMM__WIRE_MODULE_PAGES - t->named;
		put_run(t, gfn, n);
		if (gfn == GMM__NO_GFN)
			continue;
		t->named += n;
		gfn += n;
	}
}

/* ---- records ---------------------------------------------------------------------------------------------------------- */

static void tell_runs(struct teller *t, const struct gmm__module_record *record)
{
	for (uint32_t i = 0; i < record->n_runs; i++) {
		const struct gmm__module_run *run = &record->runs[i];
		uint32_t end = i + 1 < record->n_runs ? run[1].start : record->module->pages.pages;
		bool fits = run->gfn == GMM__NO_GFN || end - run->start <= t->pages_left;
		if (!fits)
			t->cut = true;
		else if (run->gfn != GMM__NO_GFN)
			t->pages_left -= end - run->start;
		add_pages(t, fits ? run->gfn : GMM__NO_GFN, end - run->start);
	}
}

/* Where pages [first, first + n) of the module are; only shared ones matter. False: the VM is being destroyed. */
static bool locate(const struct teller *t, const struct gmm__module_record *record, uint32_t first, uint32_t n,
		   uint32_t *gfn)
{
	struct gmm__presence presence = { .backend = t->backend };

	if (!gmm__vm_claim(record->vm, false))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		struct gmm__slot *slot;
		uint32_t page;
		bool shared = gmm__check_locate(&presence, record, first + i, &slot, &page) == GMM__FIT_SHARED;
		gfn[i] = shared ? (uint32_t)(slot->gfn + page) : GMM__NO_GFN;
	}
	gmm__vm_release(record->vm);
	return true;
}

/* The service is not spoken to under the claim. */
static void tell_addresses(struct teller *t, const struct gmm__module_record *record)
{
	uint32_t pages = record->module->pages.pages, gfn[GMM__CHECK_PAGES];

	for (uint32_t first = 0, n; first < pages; first += n) {
		n = pages - first < GMM__CHECK_PAGES ? pages - first : GMM__CHECK_PAGES;
		if (t->pages_left < n || !locate(t, record, first, n, gfn)) {
			t->cut = true;
			return;
		}
		t->pages_left -= n;
		for (uint32_t i = 0; i < n; i++)
			add_pages(t, gfn[i], 1);
	}
}

static void tell_record(struct teller *t, const struct gmm__module_record *record)
{
	const struct gmm__module_key *key = &record->module->key;

	t->head.os = key->os;
	t->head.size = key->size;
	t->head.layout = XXH3_64bits(key->region, key->n_regions * sizeof *key->region);
	t->head.pages = record->module->pages.pages;
	t->head.first = 0;
	t->cut = false;
	memcpy(t->head.name, key->name, sizeof t->head.name);
	memcpy(t->head.version, key->version, sizeof t->head.version);
	if (record->runs)
		tell_runs(t, record);
	else
		tell_addresses(t, record);
	if (t->pages > 0 || t->head.first == 0)
		send_part(t);
}

/* Returns how many records were not told whole. */
static uint32_t tell_vm(struct teller *t, struct gmm_vm *vm, uint64_t *base)
{
	struct gmm__registry *registry = vm->gmm->registry;
	uint32_t n = gmm__registry_bases(registry, vm, base), left_out = 0;

	t->head.vm = vm->remote - 1;
	t->pages_left = VM_PAGES_MIN + vm->domain->pages;
	for (uint32_t i = 0; i < n; i++) {
		struct gmm__module_record *record = gmm__registry_hold(registry, vm, base[i]);
		if (!record) /* unregistered meanwhile */
			continue;
		tell_record(t, record);
		left_out += t->cut;
		gmm__registry_let_go(registry, record);
	}
	return left_out;
}

uint32_t gmm__modules_tell(struct gmm *gmm, const struct gmm__backend *backend, uint32_t request)
{
	struct teller t = { .remote = gmm->remote, .backend = backend,
			    .head = { .header.type = GMM__WIRE_MODULE, .modules = request } };
	size_t bytes = GMM_MODULE_VM_MAX * sizeof(uint64_t);
	uint64_t *base = gmm__mem_alloc(&gmm->mem, bytes);
	uint32_t left_out = base ? 0 : 1;

	for (struct gmm_vm *vm = base ? gmm__visit_begin(gmm, NULL, 0) : NULL; vm; vm = gmm__visit_next(vm, NULL))
		if (vm->remote) /* else the service does not know it */
			left_out += tell_vm(&t, vm, base);
	gmm__mem_free(&gmm->mem, base, bytes);
	return left_out;
}
