/* The service's loop: who is served when, and what is done every second. */
#include "service/service.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dedup/instance.h"
#include "service/metrics.h"
#include "service/modules.h"
#include "service/pools.h"
#include "service/session.h"
#include "service/shadow.h"
#include "wire/wire.h"

enum { EVENTS = 256, ACCEPTS = 64, SPARE_FOR_ROOT = 16 };
#define TICK_NS 1000000000ull
#define GREETING_NS (60 * 1000000000ull) /* a connection that is no client by then is closed */

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

static void link_session(struct gmm__service *service, struct gmm__session *s)
{
	s->next = service->sessions;
	service->sessions = s;
	service->n_sessions++;
}

static void end_session(struct gmm__service *service, struct gmm__session *s)
{
	struct gmm__session **link = &service->sessions;

	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	service->n_sessions--;
	if (s->client)
		gmm__store_remove_client(&service->store, s->client);
	gmm__session_free(s);
}

static void lose_connection(struct gmm__service *service, struct gmm__session *s)
{
	if (!gmm__session_disconnect(s) || gmm__session_is_over(s))
		end_session(service, s);
}

void gmm__service_add_client(struct gmm__service *service, int socket)
{
	const struct gmm__config *config = &service->config;
	struct gmm__session *s = gmm__session_new(service, socket);

	if (!s)
		return;
	/* Root can always ask what is going on. */
	uint32_t spare = s->peer.uid == 0 ? SPARE_FOR_ROOT : 0;
	bool room = service->n_sessions < config->max_clients + spare &&
		    s->user->clients <= config->max_clients_of_user + spare;
	link_session(service, s);
	service->connections++;
	if (!room)
		end_session(service, s);
}

static void accept_clients(struct gmm__service *service)
{
	for (int i = 0; i < ACCEPTS; i++) {
		int socket = accept4(service->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (socket < 0)
			return;
		int bytes = GMM__WIRE_MAX;
		setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
		gmm__service_add_client(service, socket);
	}
}

static bool restore_client(void *arg, const struct gmm__store_client *client)
{
	struct gmm__service *service = arg;
	struct gmm__session *s = gmm__session_restore(service, client);

	if (s)
		link_session(service, s);
	return s;
}

/* ---- every second -------------------------------------------------------------------------------------------------- */

void gmm__service_tick(struct gmm__service *service)
{
	for (struct gmm__session *s = service->sessions, *next; s; s = next) {
		next = s->next;
		gmm__modules_expire(s);
		bool is_idle = !s->client && service->now_ns - s->connected_ns > GREETING_NS;
		if (is_idle || gmm__session_is_over(s))
			end_session(service, s);
	}
	gmm__users_tidy(&service->users, service->config.user_pages_per_second, service->now_ns);
	gmm__pools_tick(service);
	if (service->metrics)
		gmm__metrics_run(service->metrics); /* its timeouts */
}

/* ---- the loop -------------------------------------------------------------------------------------------------------- */

static void reload(struct gmm__service *service)
{
	char why[512] = "";

	if (!service->config_path)
		return;
	if (gmm__config_read(service->config_path, &service->config, why, sizeof why) != 0)
		gmm__log(service->gmm, GMM_LOG_ERROR, "the configuration stays as it was: %s", why);
	else
		gmm__log(service->gmm, GMM_LOG_INFO, "read %s", service->config_path);
}

static void take_signals(struct gmm__service *service)
{
	struct signalfd_siginfo info;

	while (read(service->signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGHUP)
			reload(service);
		else
			service->stopping = true;
	}
}

static void serve_session(struct gmm__service *service, struct gmm__session *s, uint32_t events)
{
	bool goes_on = true;

	if (s->waits && events & (EPOLLHUP | EPOLLERR))
		goes_on = false; /* what it sent meanwhile is given up with it */
	else if (events & EPOLLOUT)
		goes_on = gmm__session_write(s);
	else if (events)
		goes_on = gmm__session_receive(s);
	if (!goes_on)
		lose_connection(service, s);
}

/* Clients that were over their bound and have rested. */
static void serve_rested(struct gmm__service *service)
{
	for (struct gmm__session *s = service->sessions, *next; s; s = next) {
		next = s->next;
		if (s->waits && s->resume_ns <= service->now_ns && !gmm__session_receive(s))
			lose_connection(service, s);
	}
}

static void serve_event(struct gmm__service *service, const struct epoll_event *event)
{
	if (event->data.ptr == &service->listener)
		accept_clients(service);
	else if (event->data.ptr == &service->signals)
		take_signals(service);
	else if (event->data.ptr == &service->metrics)
		gmm__metrics_run(service->metrics);
	else
		serve_session(service, event->data.ptr, event->events);
}

/* Until when there is nothing to do but to wait for messages. */
static int time_to_wait(const struct gmm__service *service, int timeout_ms)
{
	uint64_t until = service->next_tick_ns;

	for (const struct gmm__session *s = service->sessions; s; s = s->next)
		if (s->waits && s->resume_ns < until)
			until = s->resume_ns;
	int ms = until > service->now_ns ? (int)((until - service->now_ns + 999999) / 1000000) : 0;
	return timeout_ms >= 0 && timeout_ms < ms ? timeout_ms : ms;
}

bool gmm__service_turn(struct gmm__service *service, int timeout_ms)
{
	const struct gmm__sys *sys = gmm__sys_of(service->gmm);
	struct epoll_event event[EVENTS];

	service->now_ns = sys->clock_ns();
	bool recovers = gmm__pools_recover(service);
	int n = epoll_wait(service->epoll, event, EVENTS, recovers ? 0 : time_to_wait(service, timeout_ms));
	service->now_ns = sys->clock_ns();
	for (int i = 0; i < n; i++)
		serve_event(service, &event[i]);
	serve_rested(service);
	if (service->now_ns >= service->next_tick_ns) {
		gmm__service_tick(service);
		service->next_tick_ns = service->now_ns + TICK_NS;
	}
	return !service->stopping;
}

/* ---- accounts ------------------------------------------------------------------------------------------------------- */

const char *gmm__service_validate(struct gmm__service *service, bool *ret_certain)
{
	*ret_certain = true;
	for (const struct gmm__session *s = service->sessions; s; s = s->next)
		if (gmm__shadow_is_pending(s))
			*ret_certain = false;
	for (const struct gmm__pooled *pooled = service->pooled; pooled; pooled = pooled->next)
		if (pooled->recovering)
			*ret_certain = false;
	return *ret_certain ? gmm__accounts_validate(service->gmm) : NULL;
}

/* ---- open and close -------------------------------------------------------------------------------------------------- */

static int watch_fd(struct gmm__service *service, int fd, void *what)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = what };

	return epoll_ctl(service->epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

int gmm__service_take_signals(struct gmm__service *service)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	service->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (service->signals < 0 || sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return -errno;
	return watch_fd(service, service->signals, &service->signals);
}

int gmm__service_start_metrics(struct gmm__service *service, const char *address)
{
	int fd = -1, rc = gmm__metrics_start(service, address, &service->metrics, &fd);

	return rc == 0 ? watch_fd(service, fd, &service->metrics) : rc;
}

static int start_listening(struct gmm__service *service, const struct gmm__service_options *options)
{
	if (options->without_socket)
		return 0;
	service->listener = options->listener;
	if (service->listener < 0) {
		const char *path = options->socket_path ? options->socket_path : service->config.socket;
		service->listener = gmm__wire_listen(path, service->config.socket_mode);
		if (service->listener < 0) {
			gmm__log(service->gmm, GMM_LOG_ERROR, "cannot listen on %s: %s", path,
				 strerror(-service->listener));
			return service->listener;
		}
		strcpy(service->socket_path, path); /* it fitted into an address */
	}
	/* One that was handed over may block. */
	if (fcntl(service->listener, F_SETFL, O_NONBLOCK) != 0)
		return -errno;
	return watch_fd(service, service->listener, &service->listener);
}

static int open_config(struct gmm__service *service, const struct gmm__service_options *options)
{
	char why[512] = "";

	gmm__config_init(&service->config);
	service->config_path = options->config_path;
	if (!options->config_path || gmm__config_read(options->config_path, &service->config, why, sizeof why) == 0)
		return GMM_OK;
	gmm__log(service->gmm, GMM_LOG_ERROR, "%s", why);
	return GMM_ERR_INVALID_PARAMETER;
}

/* Takes over what an earlier process left: domains first, since their chunks have to get their ids back. */
static int open_store(struct gmm__service *service, const struct gmm__service_options *options)
{
	int rc = gmm__store_open(options->runtime_dir, &service->store);

	if (rc != 0) {
		gmm__log(service->gmm, GMM_LOG_ERROR, rc == -EWOULDBLOCK ? "%s is in use by another service: %s" :
			 "%s has no usable pool and pool-ro: %s", options->runtime_dir, strerror(-rc));
		return GMM_ERR_SYSTEM;
	}
	int status = gmm__pools_restore(service);
	if (status == GMM_OK && gmm__store_each_client(&service->store, restore_client, service) != 0) {
		gmm__log(service->gmm, GMM_LOG_ERROR, "cannot read which clients there are in %s", options->runtime_dir);
		status = GMM_ERR_SYSTEM;
	}
	return status;
}

int gmm__service_open(const struct gmm__service_options *options, struct gmm__service **ret_service)
{
	struct gmm__service *service = calloc(1, sizeof *service);
	struct gmm_options gmm_options;

	if (!service)
		return GMM_ERR_NO_MEMORY;
	*service = (struct gmm__service){ .store = { -1, -1, -1, -1 }, .epoll = -1, .listener = -1, .signals = -1 };
	gmm_options_init(&gmm_options);
	gmm_options.log = options->log;
	gmm_options.log_arg = options->log_arg;
	int status = gmm__instance_open_tables(&gmm_options, gmm__sys_linux(), &service->gmm);
	if (status != GMM_OK) {
		free(service);
		return status;
	}
	service->now_ns = gmm__sys_of(service->gmm)->clock_ns();
	service->next_unshare = (uint32_t)(service->now_ns / 1000000000) + 1; /* rises over restarts */
	service->epoll = epoll_create1(EPOLL_CLOEXEC);
	status = service->epoll < 0 ? GMM_ERR_SYSTEM : open_config(service, options);
	if (status == GMM_OK)
		status = open_store(service, options);
	if (status == GMM_OK && start_listening(service, options) != 0)
		status = GMM_ERR_SYSTEM;
	if (status != GMM_OK) {
		gmm__service_close(service);
		return status;
	}
	*ret_service = service;
	return GMM_OK;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void gmm__service_close(struct gmm__service *service)
{
	if (service->metrics)
		gmm__metrics_stop(service->metrics);
	/* What clients map stays as it is, for the next start. */
	for (struct gmm__pooled *pooled = service->pooled; pooled; pooled = pooled->next) {
		pooled->domain->pool.gone = NULL;
		gmm__pool_defer(&pooled->domain->pool);
	}
	while (service->sessions) {
		struct gmm__session *s = service->sessions;
		service->sessions = s->next;
		gmm__session_free(s);
	}
	gmm__users_free(&service->users);
	gmm__pools_close(service);
	gmm__store_close(&service->store);
	close_fd(service->epoll);
	if (service->socket_path[0])
		unlink(service->socket_path);
	close_fd(service->listener);
	close_fd(service->signals);
	gmm_instance_close(service->gmm);
	free(service);
}
