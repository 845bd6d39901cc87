/* What the service keeps in its runtime directory. */
#include "service/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PATH_BYTES = 256 };

/* ---- directories and mounts -------------------------------------------------------------------------------------- */

/* With that mode whatever the umask, which is meant for files. */
static int make_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) == 0)
		return chmod(path, mode) == 0 ? 0 : -errno;
	return errno == EEXIST ? 0 : -errno;
}

static bool is_mount_point(const char *path, const char *parent)
{
	struct stat s, p;

	return stat(path, &s) == 0 && stat(parent, &p) == 0 && s.st_dev != p.st_dev;
}

static int mount_pool(const char *path, const char *parent, uint32_t owner)
{
	char options[96];

	if (is_mount_point(path, parent))
		return 0;
	snprintf(options, sizeof options, "mode=0700,uid=%u,size=90%%,huge=never", owner);
	return mount("gmm-dedup", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0 ? 0 : -errno;
}

static int mount_read_only(const char *pool, const char *path, const char *parent)
{
	if (is_mount_point(path, parent))
		return 0;
	if (mount(pool, path, NULL, MS_BIND, NULL) != 0)
		return -errno;
	if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0)
		return 0;
	int rc = -errno;
	umount2(path, MNT_DETACH);
	return rc;
}

int gmm__store_prepare(const char *runtime_dir, uint32_t owner)
{
	char pool[PATH_BYTES], read_only[PATH_BYTES];

	if ((size_t)snprintf(pool, sizeof pool, "%s/pool", runtime_dir) >= sizeof pool ||
	    (size_t)snprintf(read_only, sizeof read_only, "%s/pool-ro", runtime_dir) >= sizeof read_only)
		return -ENAMETOOLONG;
	int rc = make_dir(runtime_dir, 0755);
	if (rc == 0)
		rc = make_dir(pool, 0700);
	if (rc == 0)
		rc = make_dir(read_only, 0700);
	if (rc == 0)
		rc = mount_pool(pool, runtime_dir, owner);
	return rc == 0 ? mount_read_only(pool, read_only, runtime_dir) : rc;
}

static int open_dir(const char *parent, const char *name)
{
	char path[PATH_BYTES];

	if ((size_t)snprintf(path, sizeof path, "%s/%s", parent, name) >= sizeof path)
		return -ENAMETOOLONG;
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_sub_dir(int parent, const char *name)
{
	if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
		return -errno;
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Descriptors of clients must not be of use for writing, and must lead to the pool's very files. */
static int check_read_only(const struct gmm__store *store)
{
	struct statvfs fs;
	struct stat a, b;

	if (fstatvfs(store->read_only, &fs) != 0 || fstat(store->pool, &a) != 0 || fstat(store->read_only, &b) != 0)
		return -errno;
	return fs.f_flag & ST_RDONLY && a.st_dev == b.st_dev && a.st_ino == b.st_ino ? 0 : -EROFS;
}

int gmm__store_open(const char *runtime_dir, struct gmm__store *ret_store)
{
	struct gmm__store s = { -1, -1, -1, -1 };
	int rc = s.pool = open_dir(runtime_dir, "pool");

	if (rc >= 0)
		rc = s.read_only = open_dir(runtime_dir, "pool-ro");
	if (rc >= 0)
		rc = check_read_only(&s);
	if (rc >= 0)
		rc = s.clients = open_sub_dir(s.pool, "clients");
	if (rc >= 0)
		rc = s.domains = open_sub_dir(s.pool, "domains");
	/* Two services would give out the same places, and each free what only the other's clients use. */
	if (rc >= 0 && flock(s.domains, LOCK_EX | LOCK_NB) != 0)
		rc = -errno;
	if (rc < 0) {
		gmm__store_close(&s);
		return rc;
	}
	*ret_store = s;
	return 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void gmm__store_close(struct gmm__store *store)
{
	close_one(&store->pool);
	close_one(&store->read_only);
	close_one(&store->clients);
	close_one(&store->domains);
}

/* ---- small files --------------------------------------------------------------------------------------------------- */

/* Writes a file whole or not at all, whenever the process is killed. */
static int write_file(int dir, const char *name, const void *bytes, size_t size)
{
	char temporary[PATH_BYTES];

	snprintf(temporary, sizeof temporary, "%s.new", name);
	int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, bytes, size);
	int rc = n < 0 ? -errno : (size_t)n == size ? 0 : -ENOSPC;
	close(fd);
	if (rc == 0 && renameat(dir, temporary, dir, name) != 0)
		rc = -errno;
	return rc;
}

/* -EINVAL unless the file has just that size. */
static int read_file(int dir, const char *name, void *bytes, size_t size)
{
	struct stat s;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	bool ok = fstat(fd, &s) == 0 && (size_t)s.st_size == size && read(fd, bytes, size) == (ssize_t)size;
	close(fd);
	return ok ? 0 : -EINVAL;
}

static bool is_number(const char *name, uint32_t *ret)
{
	char *end;
	unsigned long value = strtoul(name, &end, 10);

	if (*name < '0' || *name > '9' || *end || value > UINT32_MAX)
		return false;
	*ret = (uint32_t)value;
	return true;
}

/* Calls found for each entry of a directory whose name is a number. */
static int each_number(int dir, void (*found)(void *arg, uint32_t number), void *arg)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
	uint32_t number;

	if (!list) {
		int rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	for (struct dirent *entry; (entry = readdir(list)) != NULL;)
		if (is_number(entry->d_name, &number))
			found(arg, number);
	closedir(list);
	return 0;
}

/* ---- clients ---------------------------------------------------------------------------------------------------- */

int gmm__store_next_number(struct gmm__store *store, uint32_t *ret_number)
{
	uint32_t number = 1;
	int rc = read_file(store->pool, "next", &number, sizeof number);

	if (rc != 0 && rc != -ENOENT)
		return rc;
	if (number == UINT32_MAX)
		return -ENOSPC;
	uint32_t next = number + 1;
	rc = write_file(store->pool, "next", &next, sizeof next);
	if (rc == 0)
		*ret_number = number;
	return rc;
}

int gmm__store_add_client(struct gmm__store *store, const struct gmm__store_client *client)
{
	char name[16];

	snprintf(name, sizeof name, "%u", client->number);
	return write_file(store->clients, name, client, sizeof *client);
}

void gmm__store_remove_client(struct gmm__store *store, uint32_t number)
{
	char name[16];

	snprintf(name, sizeof name, "%u", number);
	unlinkat(store->clients, name, 0);
}

struct each_client {
	struct gmm__store *store;
	bool (*found)(void *arg, const struct gmm__store_client *client);
	void *arg;
	bool all;
};

static void found_client(void *arg, uint32_t number)
{
	struct each_client *each = arg;
	struct gmm__store_client client;
	char name[16];

	snprintf(name, sizeof name, "%u", number);
	each->all &= read_file(each->store->clients, name, &client, sizeof client) == 0 && client.number == number &&
		     each->found(each->arg, &client);
}

int gmm__store_each_client(struct gmm__store *store, bool (*found)(void *arg, const struct gmm__store_client *client),
			   void *arg)
{
	struct each_client each = { store, found, arg, true };
	int rc = each_number(store->clients, found_client, &each);

	return rc == 0 && !each.all ? -EIO : rc;
}

/* ---- domains ---------------------------------------------------------------------------------------------------- */

int gmm__store_add_domain(struct gmm__store *store, const struct gmm__store_domain *domain)
{
	char name[16];

	snprintf(name, sizeof name, "%u", domain->number);
	int dir = open_sub_dir(store->domains, name);
	if (dir < 0)
		return dir;
	int files = open_sub_dir(dir, "files");
	int rc = files < 0 ? files : write_file(dir, "domain", domain, sizeof *domain);
	if (files >= 0)
		close(files);
	close(dir);
	return rc;
}

static void remove_file(void *arg, uint32_t number)
{
	char name[16];

	snprintf(name, sizeof name, "%u", number);
	unlinkat(*(int *)arg, name, 0);
}

void gmm__store_remove_domain(struct gmm__store *store, uint32_t number)
{
	char name[16];

	snprintf(name, sizeof name, "%u", number);
	int dir = open_sub_dir(store->domains, name);
	if (dir < 0)
		return;
	unlinkat(dir, "domain", 0); /* from here on a restart does not take it for a domain */
	int files = open_sub_dir(dir, "files");
	if (files >= 0) {
		each_number(files, remove_file, &files);
		close(files);
	}
	unlinkat(dir, "files", AT_REMOVEDIR);
	unlinkat(dir, "domain.new", 0);
	unlinkat(dir, "layout", 0);
	close(dir);
	unlinkat(store->domains, name, AT_REMOVEDIR);
}

struct each_domain {
	struct gmm__store *store;
	void (*found)(void *arg, const struct gmm__store_domain *domain);
	void *arg;
};

static void found_domain(void *arg, uint32_t number)
{
	const struct each_domain *each = arg;
	struct gmm__store_domain domain;
	char name[32];

	snprintf(name, sizeof name, "%u/domain", number);
	if (read_file(each->store->domains, name, &domain, sizeof domain) == 0 && domain.number == number &&
	    memchr(domain.name, 0, sizeof domain.name))
		each->found(each->arg, &domain);
	else
		gmm__store_remove_domain(each->store, number); /* killed while it was made or removed */
}

int gmm__store_each_domain(struct gmm__store *store, void (*found)(void *arg, const struct gmm__store_domain *domain),
			   void *arg)
{
	struct each_domain each = { store, found, arg };

	return each_number(store->domains, found_domain, &each);
}

/* ---- pool files --------------------------------------------------------------------------------------------------- */

int gmm__store_open_file(struct gmm__store *store, uint32_t domain, uint32_t file)
{
	char name[48];

	snprintf(name, sizeof name, "%u/files/%u", domain, file);
	int fd = openat(store->domains, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int gmm__store_open_for_client(struct gmm__store *store, uint32_t domain, uint32_t file, uint32_t client)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = client, .l_len = 1 };
	char name[64];

	snprintf(name, sizeof name, "domains/%u/files/%u", domain, file);
	int fd = openat(store->read_only, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return fd;
	int rc = -errno;
	close(fd);
	return rc;
}

bool gmm__store_is_locked(int file, uint32_t client)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = client, .l_len = 1 };

	/* What cannot be asked is taken for locked: memory lost is better than bytes lost. */
	return fcntl(file, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static int open_layout(struct gmm__store *store, uint32_t domain)
{
	char name[32];

	snprintf(name, sizeof name, "%u/layout", domain);
	int fd = openat(store->domains, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int gmm__store_add_chunk(struct gmm__store *store, uint32_t domain, uint32_t place, gmm__chunk_id id)
{
	int fd = open_layout(store, domain);

	if (fd < 0)
		return fd;
	ssize_t n = pwrite(fd, &id, sizeof id, (off_t)place * (off_t)sizeof id);
	int rc = n < 0 ? -errno : n == sizeof id ? 0 : -ENOSPC;
	close(fd);
	return rc;
}

int gmm__store_read_layout(struct gmm__store *store, uint32_t domain, gmm__chunk_id **ret_ids)
{
	struct stat s;
	int fd = open_layout(store, domain);

	if (fd < 0)
		return fd;
	if (fstat(fd, &s) != 0 || s.st_size > GMM__CHUNK_ID_MAX * (off_t)sizeof(gmm__chunk_id)) {
		close(fd);
		return -EINVAL;
	}
	size_t size = (size_t)s.st_size / sizeof(gmm__chunk_id) * sizeof(gmm__chunk_id);
	gmm__chunk_id *ids = malloc(size + 1);
	int rc = !ids ? -ENOMEM : pread(fd, ids, size, 0) == (ssize_t)size ? (int)(size / sizeof *ids) : -EIO;
	close(fd);
	if (rc < 0)
		free(ids);
	else
		*ret_ids = ids;
	return rc;
}
