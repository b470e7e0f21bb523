#!/bin/sh
# assemble.sh ROOT KERNEL GUEST   turns an unpacked Debian tree ROOT into the node's root file system:
# kernel modules from KERNEL (an unpacked linux-image package), our files from GUEST/rootfs.
set -eu
root=$1 kernel=$2 guest=$3

# Modules: only the needed ones with their dependencies, decompressed so that the guest does not have to.
version=$(ls "$kernel/usr/lib/modules")
modules=$kernel/usr/lib/modules/$version
target=$root/usr/lib/modules/$version
mkdir -p "$target"
cp "$modules/modules.builtin" "$modules/modules.builtin.modinfo" "$modules/modules.order" "$target/"
if [ ! -f "$modules/modules.dep" ]; then
  [ -e "$kernel/lib" ] || ln -s usr/lib "$kernel/lib"
  depmod -b "$kernel" "$version"
fi
for module in $(cat "$guest/modules"); do
  for file in $(sed -n "s#^\([^:]*/\)\?$module\.ko[^:]*:#&#p" "$modules/modules.dep" | tr -d ':'); do
    [ -f "$target/${file%.xz}" ] && continue
    mkdir -p "$(dirname "$target/$file")"
    case $file in
    *.xz) xz -dc "$modules/$file" > "$target/${file%.xz}" ;;
    *) cp "$modules/$file" "$target/$file" ;;
    esac
  done
done
depmod -b "$root" "$version"

# busybox is the shell and every tool that has no real binary here.
ln -s busybox "$root/usr/bin/sh"
chroot "$root" /usr/bin/busybox --list-full | while read -r path; do
  name=$(basename "$path")
  for real in "$root/usr/bin/$name" "$root/usr/sbin/$name"; do
    if [ -e "$real" ] || [ -L "$real" ]; then continue 2; fi
  done
  ln -s busybox "$root/usr/bin/$name"
done
for name in init reboot poweroff halt; do rm -f "$root/usr/bin/$name"; done
ln -sf systemctl "$root/usr/bin/poweroff"

# What maintainer scripts would have made: packages are unpacked, not configured.
sed 's#/bin/bash#/bin/sh#' "$root/usr/share/base-passwd/passwd.master" > "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
[ ! -f "$root/usr/share/libc-bin/nsswitch.conf" ] || cp "$root/usr/share/libc-bin/nsswitch.conf" "$root/etc/"
rm -rf "$root/var/run" "$root/var/lock"
ln -s /run "$root/var/run"
ln -s /run/lock "$root/var/lock"
for empty in machine-id fstab resolv.conf; do : > "$root/etc/$empty"; done
echo '127.0.0.1 localhost' > "$root/etc/hosts"
chroot "$root" ldconfig

# Smaller: no unused CNI plugins, documentation, package state.
for plugin in "$root"/usr/lib/cni/*; do
  case ${plugin##*/} in bridge | host-local | loopback | portmap) ;; *) rm -f "$plugin" ;; esac
done
for folder in usr/share/zsh usr/share/bash-completion usr/share/lintian usr/share/i18n usr/share/perl5 usr/share/bug \
  usr/lib/udev var/lib/apt; do rm -rf "${root:?}/$folder"; done
rm -rf "$root"/var/cache/*
rm -f "$root/usr/bin/localedef" "$root/usr/bin/iconv" "$root/usr/bin/locale"

# systemd without generators and without any unit that is not ours: it costs half a second instead of ten.
rm -rf "$root"/usr/lib/systemd/system-generators/* "$root"/usr/lib/systemd/user* "$root/usr/lib/systemd/catalog"
rm -rf "$root"/usr/lib/systemd/system/*.wants "$root"/etc/systemd/system/*.wants

cp -a "$guest/rootfs/." "$root/"
chown -R 0:0 "$root/etc/systemd/system" "$root/etc/containerd" "$root/usr/sbin/node-setup"
chmod 0755 "$root/usr/sbin/node-setup"
mkdir -p "$root/etc/kubernetes"
