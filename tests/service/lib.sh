# For the scripts of this folder: a service of the test's own, in a mount namespace of its own, and guests (guest.c) that
# are told what to do. Source it; it runs the script again inside the namespace. GUEST is the program, BIN the folder of
# the commands.

set -u
: "${BIN:?}" "${GUEST:?}"
if [ "${GMM_IN_NAMESPACE-}" != yes ]; then
	if ! unshare -m true 2>/dev/null; then
		echo "skipped: no right to mount"
		exit 77
	fi
	GMM_IN_NAMESPACE=yes exec unshare -m bash "$0" "$@"
fi

work=$(mktemp -d)
chmod 755 "$work"
socket=$work/socket
runtime=$work/run
failures=0
service=
PATIENCE_S=90 # with what must come: hosts may be slow and stall, so the time that it takes says nothing
declare -A guest_in guest_out guest_pid

clean_up() {
	for name in "${!guest_pid[@]}"; do
		kill -KILL "${guest_pid[$name]}" 2>/dev/null
	done
	[ -z "$service" ] || kill -KILL "$service" 2>/dev/null
	wait 2>/dev/null
	umount "$runtime/pool-ro" "$runtime/pool" 2>/dev/null
	rm -rf "$work"
}
trap clean_up EXIT

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

finish() {
	[ "$failures" -eq 0 ] || sed 's/^/service: /' "$work/log"
	exit "$((failures > 0))"
}

# start_service [ARGUMENT...]: with the configuration in $work/config, if any.
start_service() {
	local arguments=(--socket "$socket" --runtime-dir "$runtime" "$@")
	[ ! -f "$work/config" ] || arguments+=(--config "$work/config")
	"$BIN/gmm-dedup" serve "${arguments[@]}" >>"$work/log" 2>&1 &
	service=$!
	local end=$((SECONDS + PATIENCE_S))
	while [ "$SECONDS" -lt "$end" ] && kill -0 "$service" 2>/dev/null; do
		"$BIN/gmm-dedup" status --socket "$socket" --json >/dev/null 2>&1 && return
		sleep 0.02
	done
	fail "the service does not start: $(cat "$work/log")"
	finish
}

# kill_service SIGNAL
kill_service() {
	kill -"$1" "$service"
	wait "$service" 2>/dev/null
	local status=$?
	service=
	return "$status"
}

# A TCP port that nobody uses; the kernel gives one at random.
free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# fetch_metrics PORT: over TCP, into $work/metrics.
fetch_metrics() {
	exec 9<>"/dev/tcp/127.0.0.1/$1" || fail "nobody listens for metrics"
	printf 'GET /metrics HTTP/1.0\r\n\r\n' >&9
	timeout 60 cat <&9 >"$work/metrics"
	exec 9>&-
}

# start_guest NAME PAGES [DOMAIN]: AS is a command to run it through.
start_guest() {
	local name=$1
	shift
	mkfifo "$work/$name.in" "$work/$name.out"
	${AS-} "$GUEST" "$socket" "$@" <"$work/$name.in" >"$work/$name.out" 2>>"$work/log" &
	guest_pid[$name]=$!
	exec {in}>"$work/$name.in" {out}<"$work/$name.out"
	guest_in[$name]=$in
	guest_out[$name]=$out
	answer "$name"
}

# Sets reply to what comes after ok.
answer() {
	local line
	read -r -t $((2 * PATIENCE_S)) line <&"${guest_out[$1]}" || line="bad: no answer"
	reply=${line#* }
	[ "${line%% *}" = ok ]
}

# tell NAME COMMAND...
tell() {
	local name=$1
	shift
	echo "$*" >&"${guest_in[$name]}"
	answer "$name" || fail "$name: $*: $reply"
}

# end_guest NAME
end_guest() {
	echo quit >&"${guest_in[$1]}"
	exec {guest_in[$1]}>&-
	wait "${guest_pid[$1]}" 2>/dev/null
	unset "guest_pid[$1]"
}

# status FILTER: a jq condition on the service's status.
status() {
	"$BIN/gmm-dedup" status --socket "$socket" --json >"$work/status" && jq -e "$1" "$work/status" >/dev/null
}

# try_for COMMAND...: repeats it until it succeeds.
try_for() {
	local end=$((SECONDS + PATIENCE_S))
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return
		sleep 0.05
	done
}

# eventually FILTER: it comes to hold. If not, what follows would wait in vain, too.
eventually() {
	try_for status "$1" && return
	fail "never: $1: $(jq -c . "$work/status")"
	finish
}
