/* Answers to ADMIN requests. */
#include "service/admin.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "service/modules.h"
#include "service/pools.h"
#include "service/session.h"

enum { VMA_BYTES = 300, LISTED_MAX = 500, DUMP_RUNS_MAX = 4096 };

static const char NO_CLIENT[] = "no such client, or not yours";

static bool may_see_all(const struct gmm__peer *peer)
{
	return peer->uid == 0 || peer->uid == geteuid();
}

static bool may_see(const struct gmm__peer *peer, const struct gmm__session *s)
{
	return s->client && (may_see_all(peer) || peer->uid == s->peer.uid);
}

static void set_count(json_t *object, const char *key, uint64_t count)
{
	json_object_set_new(object, key, json_integer((json_int_t)count));
}

static json_t *error(const char *text)
{
	return json_pack("{s:s}", "error", text);
}

/* ---- status ------------------------------------------------------------------------------------------------------- */

static json_t *states_of(const uint64_t *state_pages)
{
	json_t *states = json_object();

	for (int i = 0; i < GMM_PAGE_STATES; i++)
		set_count(states, gmm_page_state_name((enum gmm_page_state)i), state_pages[i]);
	return states;
}

/* Why nothing of the VM is shared, in a sentence; NULL if something is. */
static const char *why_nothing(const struct gmm_vm_stats *stats)
{
	uint64_t seen = stats->pages - stats->state_pages[GMM_PAGE_ABSENT];

	if (stats->references || stats->state_pages[GMM_PAGE_ZERO])
		return NULL;
	if (stats->pages == 0)
		return "no RAM is registered";
	if (seen == 0)
		return "no page was seen yet: the guest has touched none, or the agent has not begun";
	if (stats->state_pages[GMM_PAGE_HUGE] > seen / 2)
		return "most of its memory is huge pages, which are left whole";
	if (stats->state_pages[GMM_PAGE_VOLATILE] > seen / 2)
		return "most pages were written a moment ago, or wait for their first look";
	return "no page was found equal to another one";
}

/* Of a VM, with what was last refused to the client. */
static const char *note_of(const struct gmm_vm_stats *stats, const struct gmm__session *s)
{
	if (stats->pages == 0 && s->ram_refused)
		return s->ram_refused == GMM_ERR_LIMIT ? "its RAM was refused: the domain has as much as it may have"
						       : "its RAM was refused";
	return why_nothing(stats);
}

/* Why nothing of the client's is here, or NULL. */
static const char *why_no_vm(const struct gmm__session *s)
{
	for (uint32_t i = 0; i < GMM__WIRE_VMS; i++)
		if (s->vm[i])
			return NULL;
	if (s->unreported)
		return "it has not said what it uses since the service started again";
	switch (s->vm_refused) {
	case GMM_OK:
		return "it has registered no VM: none was made, or no memory was declared mergeable (QEMU: mem-merge=on)";
	case GMM_ERR_NO_DOMAIN:
		return "its VM was refused: no trust domain is for this user, or it asked for one that is not";
	case GMM_ERR_LIMIT:
		return "its VM was refused: there are as many as there may be";
	default:
		return "its VM was refused: the service has no room for it";
	}
}

/* What sharing saves is a domain's: a VM's part goes by its references. */
static uint64_t part_of_saved(const struct gmm_vm *vm, uint64_t references)
{
	const struct gmm__pool *pool = &vm->domain->pool;

	if (pool->references == 0)
		return 0;
	return (uint64_t)((double)references * (double)(pool->references - pool->used_pages) / (double)pool->references);
}

static json_t *vm_of(const struct gmm__session *s, const struct gmm_vm *vm)
{
	struct gmm_vm_stats stats = vm->stats;
	json_t *object = json_object();

	gmm__accounts_derive(&stats);
	json_object_set_new(object, "name", json_string(vm->name));
	json_object_set_new(object, "domain", json_string(vm->domain->name));
	set_count(object, "pages", stats.pages);
	set_count(object, "private_pages", stats.private_pages);
	set_count(object, "zero_pages", stats.state_pages[GMM_PAGE_ZERO]);
	set_count(object, "shared_pages", stats.references);
	set_count(object, "broken_pages", stats.state_pages[GMM_PAGE_BROKEN]);
	set_count(object, "saved_pages", part_of_saved(vm, stats.references));
	json_object_set_new(object, "states", states_of(stats.state_pages));
	set_count(object, "mappings", stats.mappings);
	set_count(object, "runs", stats.runs);
	set_count(object, "merges", stats.merges);
	set_count(object, "cow_breaks", stats.cow_breaks);
	set_count(object, "repairs", stats.repairs);
	set_count(object, "raced", stats.raced);
	set_count(object, "refused_pinned", stats.refused_pinned);
	if (note_of(&stats, s))
		json_object_set_new(object, "note", json_string(note_of(&stats, s)));
	return object;
}

static const char *state_of(const struct gmm__session *s)
{
	if (s->socket < 0)
		return s->unreported ? "unreported" : s->banned ? "banned" : "zombie";
	return s->unreported ? "reporting" : s->waits ? "waiting" : "connected";
}

static json_t *client_of(const struct gmm__session *s)
{
	json_t *object = json_object(), *vms = json_array();

	for (uint32_t i = 0; i < GMM__WIRE_VMS; i++)
		if (s->vm[i])
			json_array_append_new(vms, vm_of(s, s->vm[i]));
	set_count(object, "client", s->client);
	set_count(object, "pid", (uint64_t)s->peer.pid);
	set_count(object, "uid", s->peer.uid);
	/* The client chose it: it need not be UTF-8. */
	json_t *program = json_string(s->program);
	json_object_set_new(object, "program", program ? program : json_string("?"));
	json_object_set_new(object, "state", json_string(state_of(s)));
	json_object_set_new(object, "settled", json_boolean(s->told.settled));
	set_count(object, "settle_estimate_ms", s->told.settle_estimate_ms);
	json_object_set_new(object, "paused", json_boolean(s->paused || s->service->paused));
	json_object_set_new(object, "forked", json_boolean(s->forked));
	if (s->unshare)
		json_object_set_new(object, "unshare",
				    json_string(s->told.unshared != s->unshare ? "under way" :
						s->told.unshare_status == GMM_OK ? "done" : "failed"));
	set_count(object, "passes", s->told.passes);
	set_count(object, "agent_cpu_ns", s->told.cpu_ns);
	set_count(object, "longest_freeze_ns", s->told.longest_freeze_ns);
	set_count(object, "agent_mappings", s->told.mappings);
	set_count(object, "service_cpu_ns", s->cpu_ns);
	set_count(object, "messages", s->messages);
	set_count(object, "offered_pages", s->offered_pages);
	set_count(object, "promoted_pages", s->promoted_pages);
	set_count(object, "charged_pages", s->charged_pages);
	if (why_no_vm(s))
		json_object_set_new(object, "note", json_string(why_no_vm(s)));
	json_object_set_new(object, "vms", vms);
	return object;
}

static json_t *domain_of(const struct gmm__pooled *pooled)
{
	const struct gmm__domain *domain = pooled->domain;
	const struct gmm__pool *pool = &domain->pool;
	uint64_t zero = 0, mappings = 0, broken = 0, saved = pool->references - pool->used_pages;
	json_t *object = json_object();

	for (const struct gmm_vm *vm = pooled->service->gmm->vms; vm; vm = vm->next) {
		if (vm->domain != domain)
			continue;
		zero += vm->stats.state_pages[GMM_PAGE_ZERO];
		broken += vm->stats.state_pages[GMM_PAGE_BROKEN];
		mappings += vm->stats.mappings;
	}
	json_object_set_new(object, "name", json_string(domain->name));
	set_count(object, "number", pooled->number);
	set_count(object, "vms", domain->vms - 1); /* one hold is the service's own */
	set_count(object, "pages", domain->pages);
	set_count(object, "pool_pages", pool->used_pages);
	set_count(object, "references", pool->references);
	set_count(object, "saved_pages", pooled->recovering ? 0 : saved);
	set_count(object, "zero_pages", zero);
	set_count(object, "broken_pages", broken);
	set_count(object, "deferred_pages", pool->deferred_pages);
	set_count(object, "file_pages", gmm__pooled_file_pages(pooled));
	set_count(object, "mappings", mappings);
	json_object_set_new(object, "recovering", json_boolean(pooled->recovering));
	int64_t given_back = (int64_t)(((pooled->recovering ? 0 : saved) + zero) * GMM__PAGE_BYTES);
	json_object_set_new(object, "profit_bytes",
			    json_integer(given_back - (int64_t)(mappings * VMA_BYTES + pool->used_pages * 8)));
	return object;
}

static bool sees_domain(const struct gmm__service *service, const struct gmm__peer *peer, const struct gmm__domain *domain)
{
	if (may_see_all(peer))
		return true;
	for (const struct gmm__session *s = service->sessions; s; s = s->next)
		if (may_see(peer, s) && gmm__session_is_in(s, domain))
			return true;
	return false;
}

static json_t *service_of(const struct gmm__service *service)
{
	json_t *object = json_object();

	set_count(object, "metadata_bytes", service->gmm->mem.bytes);
	set_count(object, "connections", service->connections);
	set_count(object, "messages", service->messages);
	set_count(object, "offered_pages", service->offered_pages);
	set_count(object, "promoted_pages", service->promoted_pages);
	set_count(object, "violations", service->violations);
	set_count(object, "cpu_ns", gmm__sys_of(service->gmm)->thread_cpu_ns());
	json_object_set_new(object, "paused", json_boolean(service->paused));
	return object;
}

/* "certain" is false while references are on their way, when nothing can be said. */
static json_t *accounts_of(struct gmm__service *service)
{
	bool certain;
	const char *broken = gmm__service_validate(service, &certain);

	return json_pack("{s:b, s:b, s:s}", "certain", certain, "right", !broken, "broken", broken ? broken : "");
}

static json_t *do_status(struct gmm__service *service, const struct gmm__peer *peer, bool check)
{
	json_t *status = json_object(), *clients = json_array(), *domains = json_array();

	for (const struct gmm__session *s = service->sessions; s; s = s->next)
		if (may_see(peer, s))
			json_array_append_new(clients, client_of(s));
	for (const struct gmm__pooled *pooled = service->pooled; pooled; pooled = pooled->next)
		if (sees_domain(service, peer, pooled->domain))
			json_array_append_new(domains, domain_of(pooled));
	if (may_see_all(peer))
		json_object_set_new(status, "service", service_of(service));
	if (check && may_see_all(peer))
		json_object_set_new(status, "accounts", accounts_of(service));
	json_object_set_new(status, "domains", domains);
	json_object_set_new(status, "clients", clients);
	return status;
}

/* ---- one process ----------------------------------------------------------------------------------------------------- */

static json_t *do_why(struct gmm__service *service, const struct gmm__peer *peer, json_int_t pid)
{
	json_t *clients = json_array();

	for (const struct gmm__session *s = service->sessions; s; s = s->next)
		if (may_see(peer, s) && s->peer.pid == pid)
			json_array_append_new(clients, client_of(s));
	if (json_array_size(clients))
		return json_pack("{s:o}", "clients", clients);
	json_decref(clients);
	return error(NO_CLIENT);
}

/* A part of a dump, which begins at a page of a slot and ends where it has enough. */
struct dumping {
	uint32_t slot, page;          /* where it goes on */
	uint32_t left;                /* runs that it may still have */
};

static json_t *dump_slot(const struct gmm__slot *slot, struct dumping *at)
{
	json_t *runs = json_array();

	for (uint32_t i = at->page, n; i < slot->pages && at->left > 0; i += n, at->left--) {
		enum gmm_page_state state = gmm__slot_state(slot, i);
		bool covered = gmm__state_is_covered(state);
		n = 1;
		while (i + n < slot->pages && gmm__slot_state(slot, i + n) == state &&
		       (!covered || slot->value[i + n] == slot->value[i] + n))
			n++;
		at->page = i + n;
		json_array_append_new(runs, json_pack("[I, I, s, I]", (json_int_t)(slot->gfn + i), (json_int_t)n,
						      gmm_page_state_name(state),
						      (json_int_t)(covered ? slot->value[i] : GMM__NIL)));
	}
	return json_pack("{s:s, s:I, s:o}", "vm", slot->vm->name, "slot", (json_int_t)at->slot, "runs", runs);
}

static json_t *dump_slots(const struct gmm__session *s, struct dumping *at)
{
	json_t *slots = json_array();

	for (; at->slot < GMM__WIRE_SLOTS; at->slot++, at->page = 0) {
		const struct gmm__slot *slot = s->slot[at->slot];
		if (slot && at->page < slot->pages)
			json_array_append_new(slots, dump_slot(slot, at));
		if (slot && at->page < slot->pages)
			break;
	}
	return slots;
}

static bool read_place(const json_t *from, const char *key, json_int_t most, uint32_t *ret)
{
	json_int_t value = json_integer_value(json_object_get(from, key));

	*ret = (uint32_t)value;
	return value >= 0 && value <= most;
}

/* "next" is where to go on in another request, which others are served before; null at the end. A process may be several
 * clients. */
static json_t *do_dump(struct gmm__service *service, const struct gmm__peer *peer, json_int_t pid, const json_t *from)
{
	struct dumping at = { .left = DUMP_RUNS_MAX };
	uint32_t nth = 0, first;

	if (!read_place(from, "client", UINT32_MAX, &first) || !read_place(from, "slot", GMM__WIRE_SLOTS, &at.slot) ||
	    !read_place(from, "page", UINT32_MAX, &at.page))
		return error("from: a client, a slot and a page");
	for (const struct gmm__session *s = service->sessions; s; s = s->next) {
		if (!may_see(peer, s) || s->peer.pid != pid || nth++ < first)
			continue;
		json_t *slots = dump_slots(s, &at);
		if (at.slot >= GMM__WIRE_SLOTS)
			at = (struct dumping){ .left = 0 };
		else
			nth--;
		return json_pack("{s:o, s:{s:I, s:I, s:I}}", "slots", slots, "next", "client", (json_int_t)nth, "slot",
				 (json_int_t)at.slot, "page", (json_int_t)at.page);
	}
	return nth ? json_pack("{s:[], s:n}", "slots", "next") : error(NO_CLIENT);
}

/* ---- modules ---------------------------------------------------------------------------------------------------------- */

/* A text that a guest chose: it need not be UTF-8. */
static json_t *guest_text(const char *text)
{
	char ascii[GMM_MODULE_NAME_MAX + 1] = "";
	json_t *string = json_string(text);

	for (size_t i = 0; !string && text[i] && i < GMM_MODULE_NAME_MAX; i++)
		ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	return string ? string : json_string(ascii);
}

static json_t *module_of(const struct gmm_module_info *info)
{
	json_t *object = json_object();

	json_object_set_new(object, "name", guest_text(info->name));
	json_object_set_new(object, "version", guest_text(info->version));
	json_object_set_new(object, "domain", json_string(info->domain));
	json_object_set_new(object, "os", json_string(gmm_os_family_name(info->os)));
	set_count(object, "size", info->size);
	set_count(object, "users", info->users);
	set_count(object, "pages", info->pages);
	set_count(object, "shared_pages", info->shared_pages);
	set_count(object, "variants", info->variants);
	set_count(object, "references", info->references);
	set_count(object, "saved_pages", info->saved_pages);
	return object;
}

/* Modules from number `from` on of what the clients that the peer may see have answered to a request, or a later one. "next"
 * is where to go on in another request, which others are served before; null at the end. */
static json_t *list_modules(struct gmm__service *service, const struct gmm__peer *peer, uint32_t request, json_int_t from,
			    uint32_t *ret_charge)
{
	struct gmm__module_uses uses = { 0 };
	struct gmm_module_info info;
	json_t *modules = json_array();
	json_int_t n = 0;
	int rc = 1;

	for (const struct gmm__session *s = service->sessions; rc == 1 && s; s = s->next)
		if (may_see(peer, s) && !gmm__modules_gather(&uses, s, request))
			rc = GMM_ERR_NO_MEMORY;
	for (; rc == 1 && n < from + LISTED_MAX; n++) {
		rc = gmm__modules_next(&uses, n < from ? NULL : &info);
		if (rc == 1 && n >= from)
			json_array_append_new(modules, module_of(&info));
	}
	json_t *list = rc >= 0 ? json_pack("{s:O, s:I, s:o}", "modules", modules, "left_out", (json_int_t)uses.left_out, "next",
					   rc == 1 ? json_integer(n) : json_null()) : NULL;
	*ret_charge += uses.charge;
	gmm__modules_uses_free(&uses);
	json_decref(modules);
	return list;
}

/* A new request, or how far one is; the modules once all have answered, or `now`. */
static json_t *do_modules(struct gmm__service *service, const struct gmm__peer *peer, const json_t *request,
			  uint32_t *ret_charge)
{
	const json_t *number = json_object_get(request, "request");
	bool is_new = !json_is_integer(number);
	uint32_t asked = is_new ? ++service->modules_request : (uint32_t)json_integer_value(number);
	uint32_t processes = 0, answered = 0;
	json_t *answer = json_object();

	for (struct gmm__session *s = service->sessions; s; s = s->next) {
		if (!may_see(peer, s))
			continue;
		if (is_new)
			gmm__modules_ask(s, asked);
		processes += gmm__modules_is_asked(s, asked);
		answered += gmm__modules_has_answered(s, asked);
	}
	set_count(answer, "request", asked);
	set_count(answer, "processes", processes);
	set_count(answer, "answered", answered);
	json_int_t from = json_integer_value(json_object_get(request, "from"));
	if (from < 0 || from > UINT32_MAX) {
		json_decref(answer);
		return error("from: a module");
	}
	if (answered < processes && !json_is_true(json_object_get(request, "now")))
		return answer;
	json_t *list = list_modules(service, peer, asked, from, ret_charge);
	int rc = list ? json_object_update(answer, list) : -1;
	json_decref(list);
	if (rc == 0)
		return answer;
	json_decref(answer);
	return error("the service has no memory for it");
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

static void command(struct gmm__session *s, const char *what)
{
	s->paused = strcmp(what, "resume") != 0;
	if (strcmp(what, "unshare") == 0)
		s->unshare = s->service->next_unshare;
}

/* To one process, or to all that the peer may command. What root tells all holds for later clients too, but for unshare. */
static json_t *do_command(struct gmm__service *service, const struct gmm__peer *peer, const char *what, const json_t *pid)
{
	bool all = json_is_string(pid) && strcmp(json_string_value(pid), "all") == 0;
	uint32_t n = 0;

	if (!all && !json_is_integer(pid))
		return error("pid: a number or \"all\"");
	for (struct gmm__session *s = service->sessions; s; s = s->next) {
		if (!may_see(peer, s) || (!all && s->peer.pid != json_integer_value(pid)))
			continue;
		command(s, what);
		n++;
	}
	service->next_unshare++;
	if (all && may_see_all(peer) && strcmp(what, "unshare") != 0)
		service->paused = strcmp(what, "pause") == 0;
	return n || all ? json_pack("{s:I}", "clients", (json_int_t)n) : error(NO_CLIENT);
}

static json_t *do_request(struct gmm__service *service, const struct gmm__peer *peer, const json_t *request,
			  uint32_t *ret_charge)
{
	const char *what = json_string_value(json_object_get(request, "do"));
	const json_t *pid = json_object_get(request, "pid");

	if (!what)
		return error("not an object with \"do\"");
	if (strcmp(what, "status") == 0)
		return do_status(service, peer, json_is_true(json_object_get(request, "check")));
	if (strcmp(what, "why") == 0)
		return do_why(service, peer, json_integer_value(pid));
	if (strcmp(what, "dump") == 0)
		return do_dump(service, peer, json_integer_value(pid), json_object_get(request, "from"));
	if (strcmp(what, "modules") == 0)
		return do_modules(service, peer, request, ret_charge);
	if (strcmp(what, "unshare") == 0 || strcmp(what, "pause") == 0 || strcmp(what, "resume") == 0)
		return do_command(service, peer, what, pid);
	return error("no such request");
}

char *gmm__admin_answer(struct gmm__service *service, const struct gmm__peer *peer, const char *text, size_t size,
			uint32_t *ret_charge)
{
	json_t *request = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
	json_t *answer = do_request(service, peer, request, ret_charge);
	char *result = answer ? json_dumps(answer, JSON_COMPACT) : NULL;

	json_decref(answer);
	json_decref(request);
	return result;
}
