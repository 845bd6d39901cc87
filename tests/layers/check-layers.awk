# Used by check-layers.sh, run in the root of the tree. Files are named relative to it. Plain POSIX awk.

BEGIN {
	# Folder, or one file, and the prefixes its quoted includes may start with. The longest that fits counts.
	may["gmm/sys"] = "gmm/sys/"
	may["gmm"] = "gmm/"
	may["wire"] = "wire/ gmm/"
	may["dedup"] = "dedup/ wire/ gmm/"
	may["sharedmod"] = "sharedmod/ dedup/ wire/ gmm/"
	may["service"] = "service/ sharedmod/ dedup/ wire/ gmm/"
	# Shares the format of reports with the host's side, and nothing else.
	may["guest"] = "guest/ sharedmod/report_format.h sharedmod/report_write.h"
	may["cmd"] = "cmd/"
	may["preload"] = "preload/"
	# The service itself, and who speaks its protocol.
	may["cmd/serve.c"] = "cmd/ service/"
	may["cmd/admin.c"] = "cmd/ wire/"
	may["tests/service"] = "tests/service/ tests/support/"
	may["bench"] = "bench/ cmd/"
	# Measures each stage of the engine by itself, which the public interface cannot.
	may["bench/stages.c"] = "bench/ cmd/ dedup/ gmm/"
	may["tests/unit"] = "tests/unit/ tests/support/ gmm/ wire/ dedup/ sharedmod/ service/"
	may["tests/fuzz"] = "tests/fuzz/ gmm/ wire/ dedup/ sharedmod/ service/"
	may["tests/guest"] = "tests/guest/ tests/unit/support/ gmm/ sharedmod/"
	may["tests/api"] = "tests/api/ tests/support/"
	may["tests/preload"] = "tests/preload/ preload/raw.h"
	may["tests/support"] = "tests/support/"
	may["docs/examples"] = ""
	may["include"] = ""

	library["gmm"] = library["wire"] = library["dedup"] = library["sharedmod"] = library["service"] = 1

	# The operating system's functions that only gmm/sys calls. A member of its table of functions, called
	# through "." or "->", is fine.
	os_call = "(^|[^A-Za-z0-9_.>])(mmap|mmap64|munmap|mremap|mprotect|mlock|madvise|process_madvise|ioctl" \
		"|userfaultfd|memfd_create|fallocate|sched_setscheduler|clock_gettime|syscall)[ \t]*\\("
	project = "^(gmm|wire|dedup|sharedmod|service|guest|cmd|bench|tests|docs)/"
}

function complain(what)
{
	printf "%s:%d: %s\n", FILENAME, FNR, what
	failed = 1
}

function folder_of(file,    folder)
{
	if (file in may)
		return file
	folder = file
	while (sub(/\/[^\/]*$/, "", folder))
		if (folder in may)
			return folder
	return ""
}

# The line without comments. A comment that goes on is remembered in in_comment.
function strip_comments(line,    out, c, i, quote)
{
	out = quote = ""
	for (i = 1; i <= length(line); i++) {
		c = substr(line, i, 1)
		if (in_comment) {
			if (substr(line, i, 2) == "*/") {
				in_comment = 0
				i++
			}
			continue
		}
		if (quote != "") {
			if (c == "\\")
				c = substr(line, i++, 2)
			else if (c == quote)
				quote = ""
		} else if (substr(line, i, 2) == "/*") {
			in_comment = 1
			i++
			continue
		} else if (substr(line, i, 2) == "//") {
			break
		} else if (c == "\"" || c == "'") {
			quote = c
		}
		out = out c
	}
	return out
}

function allowed(path,    prefixes, count, i)
{
	if (path ~ /(^|\/)\.\.?\//)
		return 0
	count = split(may[folder], prefixes, " ")
	for (i = 1; i <= count; i++)
		if (index(path, prefixes[i]) == 1)
			return 1
	return 0
}

function exists(file,    line, result)
{
	result = (getline line < file)
	close(file)
	return result >= 0
}

function check_include(line,    path, angle)
{
	angle = line ~ /include[ \t]*</
	path = line
	sub(/^[^<"]*[<"]/, "", path)
	sub(/[>"].*/, "", path)
	if (angle) {
		if (path ~ project && !(path ~ /^gmm\// && exists("include/" path)))
			complain("<" path "> is not a public header")
	} else if (!allowed(path)) {
		complain("\"" path "\" may not be included from " folder)
	}
}

FNR == 1 {
	in_comment = 0
	folder = folder_of(FILENAME)
	is_library = substr(folder, 1, index(folder "/", "/") - 1) in library && folder != "gmm/sys"
}

folder == "" { next }

{
	line = strip_comments($0)
	if (line ~ /^[ \t]*#[ \t]*include[ \t]*[<"]/) {
		check_include(line)
		next
	}
	if (!is_library)
		next
	gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
	if (match(line, os_call)) {
		call = substr(line, RSTART, RLENGTH)
		gsub(/[^A-Za-z0-9_]/, "", call)
		complain(call " is called outside gmm/sys")
	}
}

END { exit failed }
