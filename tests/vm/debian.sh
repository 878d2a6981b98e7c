#!/bin/bash
# debian.sh IMAGE - make a Debian root file system with systemd and container engines, for run.sh -s IMAGE.
#
# The packages of this machine's own Debian release are fetched with apt-get, unpacked and never installed: nothing of
# theirs runs here, and the machine's own list of packages is not read. Made once; a second call finds IMAGE and ends.
# Status 125: the packages could not be fetched.
set -u
IMAGE=$(realpath -m "$1") || exit 1
PACKAGES="systemd systemd-sysv systemd-container dbus util-linux coreutils bash tar busybox-static docker.io runc lxc podman crun"
# The list of packages is part of the name of what was made.
wanted=$(sha256sum "$0" | cut -c1-16)
[ "$(cat "$IMAGE.made-by" 2>/dev/null)" = "$wanted" ] && [ -s "$IMAGE" ] && exit 0
die() { echo "debian.sh: $*" >&2; exit 125; }
for c in apt-get dpkg-deb mke2fs ldconfig; do command -v $c >/dev/null || die "no $c"; done
[ "$(id -u)" = 0 ] || die "could not fetch packages: files of root's can only be made by root"
mkdir -p "$(dirname "$IMAGE")" && W=$(mktemp -d "$IMAGE.XXXX") || exit 1
trap 'rm -rf "$W"' EXIT
R=$W/root; mkdir -p "$W/archives/partial"; : >"$W/status"

# With an empty status file apt works out everything that the packages need.
apt-get -qq -y --download-only -o Dir::State::status="$W/status" -o Dir::Cache::archives="$W/archives" \
  -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=1 -o APT::Install-Recommends=false \
  install $PACKAGES >"$W/log" 2>&1 || { tail -3 "$W/log" >&2; die "could not fetch packages (apt-get update?)"; }

mkdir -p "$R"/usr/{bin,sbin,lib,lib64}
for d in bin sbin lib lib64; do ln -s usr/$d "$R/$d"; done
for deb in "$W"/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$R" --keep-directory-symlink --exclude=./usr/share/{doc,man,locale,info,lintian,perl,icons} ||
    die "cannot unpack $(basename "$deb")"
done
mkdir -p "$R"/{dev,proc,sys,run,tmp,root,out,etc,var/lib,var/log,usr/share/empty}; chmod 1777 "$R/tmp"
ln -sf bash "$R/bin/sh"; ldconfig -r "$R"

# What the packages' scripts would have made.
cat >"$R/etc/passwd" <<E
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
E
cat >"$R/etc/group" <<E
root:x:0:
tty:x:5:
messagebus:x:100:
docker:x:101:
systemd-journal:x:102:
nogroup:x:65534:
E
echo 127.0.0.1 localhost >"$R/etc/hosts"; echo vm >"$R/etc/hostname"; echo 5c1de2a7e7604b5a8f0d2a6c1b3f4e5d >"$R/etc/machine-id"
# What run.sh -s boots into: it has all controllers (by Delegate), and ends the machine.
cat >"$R/etc/systemd/system/vmrun.service" <<E
[Unit]
Description=The program of run.sh
Requires=dbus.socket
After=dbus.socket basic.target
[Service]
Type=exec
ExecStart=/bin/sh /root/.run
Delegate=yes
TasksMax=infinity
LimitNOFILE=524288
StandardOutput=tty
TTYPath=/dev/console
Environment=HOME=/root TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
E
# Nothing that takes time and that nobody looks at.
for u in systemd-logind systemd-hwdb-update systemd-journal-catalog-update ldconfig systemd-firstboot systemd-sysusers systemd-binfmt \
  systemd-journal-flush systemd-update-done systemd-update-utmp systemd-machine-id-commit systemd-pstore systemd-boot-system-token; do
  ln -sf /dev/null "$R/etc/systemd/system/$u.service"; done
for u in proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount; do
  ln -sf /dev/null "$R/etc/systemd/system/$u"; done

truncate -s 1536M "$W/image" && mke2fs -q -t ext4 -m 0 -O ^has_journal -E lazy_itable_init=1 -d "$R" "$W/image" || die "cannot make the image"
mv "$W/image" "$IMAGE" && echo "$wanted" >"$IMAGE.made-by"
