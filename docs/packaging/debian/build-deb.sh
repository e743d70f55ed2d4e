#!/bin/sh
# Build pybouncer_VERSION_ARCH.deb in the current directory.
#
#   docs/packaging/debian/build-deb.sh [PYTHON]
#
# Everything stands in /usr/lib/pybouncer: a virtual environment, and the launcher
# that is /usr/sbin/pgbouncer while the alternative says so. The distribution's own
# pgbouncer may be installed beside it; its unit, init script and configuration are
# then used as they are.
#
# Needs: gcc, the headers of OpenSSL, the headers and pip of PYTHON (Debian: libssl-dev,
# python3-dev, python3-venv, python3-pip), dpkg-deb.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../../.." && pwd)
python=${1:-/usr/bin/python3}
home=/usr/lib/pybouncer
root=$(mktemp -d)
chmod 0755 "$root"
trap 'rm -rf "$root"' EXIT

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml" | head -n 1)
short=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
arch=$(dpkg --print-architecture)

"$python" -m venv --without-pip "$root$home"
"$python" -m pip --python "$root$home/bin/python3" install --quiet \
	--disable-pip-version-check --no-compile "$source[ldap,pam]"
# Nobody needs what names the directory that this was built in.
sed -i "s|$root||g" "$root$home/pyvenv.cfg"
rm -f "$root$home"/bin/activate* "$root$home"/bin/Activate*
for script in "$root$home"/bin/*; do
	if [ -f "$script" ] && [ ! -L "$script" ]; then
		sed -i "1s|^#!$root|#!|" "$script"
	fi
done
# shellcheck disable=SC2046 # the flags are words
cc -O2 -DPYTHON="\"$home/bin/python3\"" "$here/../launcher.c" \
	-o "$root$home/bin/pgbouncer" $("$python-config" --embed --cflags --ldflags)

share=$root/usr/share/pybouncer
install -d "$root/usr/bin" "$share" "$root/lib/systemd/system" "$root/DEBIAN"
ln -s "$home/bin/pybouncer" "$root/usr/bin/pybouncer"
install -m 0644 "$here/pgbouncer.ini" "$here/userlist.txt" "$share"
sed "s|/usr/sbin/pgbouncer|$home/bin/pgbouncer|" "$here/../systemd/pgbouncer.service" \
	> "$root/lib/systemd/system/pybouncer.service"
for script in preinst postinst prerm postrm; do
	install -m 0755 "$here/$script" "$root/DEBIAN/$script"
done
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@PYTHON@/$short/g" \
	-e "s/@SIZE@/$(du -sk "$root" | cut -f 1)/" "$here/control.in" > "$root/DEBIAN/control"
dpkg-deb --root-owner-group --build "$root" "pybouncer_${version}_$arch.deb"
