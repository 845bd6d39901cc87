# A harness for real guests: source it. It downloads Debian's cloud kernel and what a small guest needs, unpacks them
# (nothing is installed on the host), makes an initramfs of them, and boots QEMU with it.
#
#   qemu_need                       ends the test as skipped unless QEMU and its helpers are there
#   qemu_image                      makes the guest's image, once, in $GMM_QEMU_CACHE (~/.cache/gmm-dedup/qemu)
#   try_for SECONDS COMMAND...      repeats it until it succeeds
#   service_ready SOCKET LOG        waits until a service answers there; ends the test if it does not
#   vm_start NAME [QEMU-ARGUMENT]   boots a guest; vm_wrap is an array with a command to run QEMU through
#   vm_ready NAME SECONDS           waits until it is up
#   vm_run NAME SECONDS COMMAND     runs a shell command in it: output and exit status
#   vm_qmp NAME COMMAND [JSON]      a QMP command; prints what it returns
#   vm_dump NAME FILE               writes its RAM to a file
#   vm_stop NAME                    shuts it down and returns the exit status of QEMU
#   vm_pid NAME                     the process id of its QEMU
#
# A guest has 256 MiB and two processors that QEMU emulates (TCG): no virtualization is needed. GMM_QEMU_ACCEL and
# vm_mib change that. Its console is written to $work/NAME.console. `work` is a folder that the sourcing script has made;
# vm_kill_all in its EXIT trap ends what is left of the guests it started.
# shellcheck shell=bash disable=SC2154

vm_mib=${vm_mib:-256}
vm_wrap=()
qemu_here=$SRC/tests/qemu
qemu_cache=${GMM_QEMU_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/gmm-dedup/qemu}
declare -A vm_pids=()

qemu_need() {
	local tool
	for tool in qemu-system-x86_64 python3 cpio apt-get dpkg-deb flock sha256sum; do
		if ! command -v "$tool" >/dev/null; then
			echo "skipped: $tool is missing (script/setup qemu installs it)"
			exit 77
		fi
	done
}

# ---- the image --------------------------------------------------------------------------------------------

# The names of the packages that make the guest: a kernel, a shell, and Python with all it links to.
qemu_packages() {
	local kernel python
	kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
	python=$(apt-cache depends python3-minimal | sed -n 's/^.*Depends: \(python3\.[0-9]*-minimal\)$/\1/p')
	if [ -z "$kernel" ] || [ -z "$python" ]; then
		echo "no kernel or Python in the package lists" >&2
		return 1
	fi
	echo "busybox-static $kernel"
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
		--no-enhances "$python" "lib$python" | grep '^[a-z]' | sort -u
}

qemu_download() { # FOLDER
	local packages
	packages=$(qemu_packages) || { apt-get -q update >&2 && packages=$(qemu_packages); } || return
	# The sandbox user of apt may not write to the folder.
	# shellcheck disable=SC2086
	(cd "$1" && apt-get -q -o APT::Sandbox::User=root download $packages >&2) && return
	apt-get -q update >&2
	packages=$(qemu_packages) || return
	# shellcheck disable=SC2086
	(cd "$1" && apt-get -q -o APT::Sandbox::User=root download $packages >&2)
}

# The folder that becomes the guest's root file system: programs, no documents, the few modules it needs.
qemu_root() { # UNPACKED ROOT
	local all=$1 root=$2 module
	mkdir -p "$root/modules"
	cp -a "$all/bin" "$all/lib" "$all/usr" "$root/"
	[ ! -d "$all/lib64" ] || cp -a "$all/lib64" "$root/"
	rm -rf "$root/lib/modules" "$root/usr/share" "$root/usr/lib/x86_64-linux-gnu/gconv"
	for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_balloon virtio_console; do
		find "$all/lib/modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
	done
	ln -sf "$(basename "$(find "$root/usr/bin" -name 'python3.*' -type f)")" "$root/usr/bin/python3"
	cp "$qemu_here/guest/load.py" "$root/"
	cp "$qemu_here/guest/init" "$root/init"
	chmod 755 "$root/init"
	(cd "$root" && find . -type f ! -name checksums -printf '%P\0' | sort -z | xargs -0 sha256sum >checksums)
}

qemu_build_image() { # FOLDER
	local work=$1 deb
	mkdir -p "$work/debs" "$work/all" "$work/root"
	qemu_download "$work/debs" || return
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$work/all" || return
	done
	qemu_root "$work/all" "$work/root" || return
	(cd "$work/root" && find . -print0 | sort -z | cpio -0 -o -H newc -R 0:0 --quiet) >"$work/initrd" || return
	cp "$work"/all/boot/vmlinuz-* "$work/vmlinuz"
}

# Sets qemu_kernel and qemu_initrd. The image is made again when what goes into it from here has changed.
qemu_image() {
	local key image fresh
	key=$(cat "$qemu_here/lib.sh" "$qemu_here"/guest/* | sha256sum | cut -c1-16)
	image=$qemu_cache/$key
	mkdir -p "$qemu_cache"
	exec 8>"$qemu_cache/lock"
	flock 8
	if ! [ -f "$image/vmlinuz" ]; then
		fresh=$(mktemp -d "$qemu_cache/new.XXXXXX")
		if ! qemu_build_image "$fresh"; then
			rm -rf "$fresh"
			echo "cannot make the guest's image: no access to Debian's packages?"
			exit 1
		fi
		# Others may run with an older image right now.
		find "$qemu_cache" -mindepth 1 -maxdepth 1 -type d -mtime +1 -exec rm -rf {} +
		mkdir "$image"
		mv "$fresh/initrd" "$fresh/vmlinuz" "$image/"
		rm -rf "$fresh"
	fi
	exec 8>&-
	qemu_kernel=$image/vmlinuz
	qemu_initrd=$image/initrd
}

# ---- a service -------------------------------------------------------------------------------------------

try_for() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return
		sleep 0.5
	done
}

service_ready() { # SOCKET LOG
	try_for 90 "$BIN/gmm-dedup" status --socket "$1" --json &>/dev/null || {
		echo "the service did not start: $(cat "$2")"
		exit 1
	}
}

# ---- guests -----------------------------------------------------------------------------------------------

vm_start() { # NAME [QEMU-ARGUMENT...]
	local name=$1
	shift
	rm -f "$work/$name.qmp" "$work/$name.shell"
	"${vm_wrap[@]}" qemu-system-x86_64 -name "$name" -nodefaults -no-user-config -display none -no-reboot \
		-accel "${GMM_QEMU_ACCEL:-tcg,thread=multi}" -smp 2 -m "$vm_mib" \
		-kernel "$qemu_kernel" -initrd "$qemu_initrd" \
		-append "console=ttyS0 quiet panic=-1 rdinit=/init ${vm_append-}" \
		-serial "file:$work/$name.console" \
		-chardev "socket,id=shell,path=$work/$name.shell,server=on,wait=off" -serial chardev:shell \
		-qmp "unix:$work/$name.qmp,server=on,wait=off" \
		"$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null &
	vm_pids[$name]=$!
}

vm_pid() {
	echo "${vm_pids[$1]}"
}

vm_alive() {
	kill -0 "${vm_pids[$1]}" 2>/dev/null
}

# What there is to see of a guest that does not do as it should.
vm_report() { # NAME
	echo "---- $1: QEMU said"
	tail -n 20 "$work/$1.err" 2>/dev/null
	echo "---- $1: its console ends with"
	tail -n 20 "$work/$1.console" 2>/dev/null
}

vm_ready() { # NAME SECONDS
	local end=$((SECONDS + $2))
	until grep -q 'guest: ready' "$work/$1.console" 2>/dev/null; do
		if [ "$SECONDS" -ge "$end" ] || ! vm_alive "$1"; then
			echo "$1 did not come up"
			vm_report "$1"
			return 1
		fi
		sleep 0.2
	done
}

vm_run() { # NAME SECONDS COMMAND
	python3 "$qemu_here/vm.py" run "$work/$1.shell" "$2" "$3"
}

vm_qmp() { # NAME COMMAND [JSON]
	python3 "$qemu_here/vm.py" qmp "$work/$1.qmp" "${@:2}"
}

vm_dump() { # NAME FILE
	vm_qmp "$1" pmemsave "{\"val\": 0, \"size\": $((vm_mib << 20)), \"filename\": \"$2\"}" >/dev/null
}

vm_stop() { # NAME
	local end=$((SECONDS + 60))
	python3 "$qemu_here/vm.py" run "$work/$1.shell" 60 poweroff >/dev/null 2>&1
	while vm_alive "$1" && [ "$SECONDS" -lt "$end" ]; do
		sleep 0.1
	done
	if vm_alive "$1"; then
		echo "$1 did not shut down"
		vm_report "$1"
		kill -KILL "${vm_pids[$1]}"
	fi
	local status=0
	wait "${vm_pids[$1]}" || status=$?
	unset "vm_pids[$1]"
	return "$status"
}

vm_kill_all() {
	local pid
	for pid in "${vm_pids[@]}"; do
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
}
