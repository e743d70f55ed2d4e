#!/bin/sh
# Build pybouncer_VERSION_ARCH.deb in the directory DIR; `make deb` calls this.
#
#   docs/packaging/debian/build-deb.sh PYTHON [DIR]
#
# PYTHON is the environment that `make build` has built for, made from Debian's own
# python3; with its extra [manuals]. Besides: debhelper, dh-python, the headers of Python.
# DEBFULLNAME and DEBEMAIL say who builds, as with all of Debian's tools.
#
# Everything stands in /usr/lib/pybouncer: our modules, those that we carry, and the
# launcher, which is /usr/sbin/pgbouncer where the alternative says so.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../../.." && pwd)
python=$1
target=$(mkdir -p "${2:-.}" && cd "${2:-.}" && pwd)
home=/usr/lib/pybouncer

if [ "$("$python" -c 'import sys; print(sys.base_prefix)')" != /usr ]; then
	echo "$python is not Debian's: make deb PYTHON=/usr/bin/python3 VENV=.venv-deb" >&2
	exit 1
fi
short=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
# 1.0.0rc1 comes before 1.0.0: 1.0.0~rc1.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml" | head -n 1 |
	sed 's/\([0-9]\)\(a\|b\|rc\|\.dev\)\([0-9]\)/\1~\2\3/')
maintainer="${DEBFULLNAME:-the pybouncer authors} <${DEBEMAIL:-pybouncer@localhost}>"
# The same tree gives the same package.
SOURCE_DATE_EPOCH=$(git -C "$source" -c safe.directory='*' log -1 --format=%ct \
	2>/dev/null || stat -c %Y "$source/CHANGELOG.md")
export SOURCE_DATE_EPOCH

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
tree=$stage/pybouncer
debian=$tree/debian
place=$tree/install

mkdir -p "$debian" "$place$home/bin"
for file in rules postinst prerm postrm pybouncer.triggers pybouncer.default \
	pybouncer.logrotate pybouncer.lintian-overrides; do
	cp "$here/$file" "$debian/"
done
sed "s|@MAINTAINER@|$maintainer|" "$here/control" >"$debian/control"
sed -i -e "s|@PYTHON@|$short|" -e "s|@PYTHON_NEXT@|$next|" "$debian/rules"
mkdir "$debian/source"
echo '3.0 (quilt)' >"$debian/source/format"
cat >"$debian/changelog" <<END
pybouncer ($version-1) unstable; urgency=medium

  * What has changed is in changelog.gz, beside this file.

 -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")
END
paragraphs() { sed 's/^$/./; s/^/ /'; }
permission() { sed -n '/^Permission is hereby/,$p' "$1" | paragraphs; }
expat=$("$python" -c 'from importlib.metadata import distribution as of
print([f.locate() for f in of("pycares").files if f.name == "LICENSE"][0])')
sed '1,4d' "$source/LICENSE" | paragraphs >"$stage/isc"
permission "$expat" >"$stage/expat"
sed -e "/@ISC@/{r $stage/isc
d}" -e "/@EXPAT@/{r $stage/expat
d}" "$here/copyright.in" >"$debian/copyright"

"$python" "$here/collect.py" "$place$home"
# What pip would call extras, as Debian has it.
cat >"$place$home/bouncer/extras.json" <<'END'
{"demo": "apt install postgresql", "ha": "apt install python3-jinja2 python3-requests"}
END
# shellcheck disable=SC2046 # the flags are words
cc -O2 -g0 $(dpkg-buildflags --get CPPFLAGS) $(dpkg-buildflags --get LDFLAGS) \
	-DPYTHON='"/usr/bin/python3"' -DMODULES="\"$home\"" "$here/../launcher.c" \
	-o "$place$home/bin/pgbouncer" \
	$("/usr/bin/python$short-config" --embed --includes --ldflags)
install -d "$place/usr/bin" "$place/etc/pybouncer" "$place/var/log/pybouncer"
cat >"$place/usr/bin/pybouncer" <<END
#! /usr/bin/python3 -I
import sys

sys.path.insert(0, "$home")

from bouncer.pybouncer import pybouncer_main

sys.exit(pybouncer_main())
END
chmod 0755 "$place/usr/bin/pybouncer"
install -m 0640 "$here/pgbouncer.ini" "$here/userlist.txt" "$place/etc/pybouncer"

"$python" "$here/../manuals.py" "$stage/manuals" >/dev/null
cp "$stage/manuals/pgbouncer.1" "$debian/pybouncer-pgbouncer.1"
cp "$stage/manuals/pgbouncer.5" "$debian/pybouncer-pgbouncer.5"
cp "$stage/manuals/pybouncer.1" "$debian/"
printf '%s\n' debian/pybouncer-pgbouncer.1 debian/pybouncer-pgbouncer.5 \
	debian/pybouncer.1 >"$debian/pybouncer.manpages"
install -D -m 0644 "$stage/manuals/pybouncer.bash" \
	"$place/usr/share/bash-completion/completions/pybouncer"
install -D -m 0644 "$stage/manuals/pybouncer.zsh" \
	"$place/usr/share/zsh/vendor-completions/_pybouncer"

# The unit: our program whatever the alternative is, with the file that
# /etc/default/pybouncer names.
sed -e "s|^ExecStart=/usr/sbin/pgbouncer|ExecStart=$home/bin/pgbouncer|" \
	-e 's|^Environment=PGBOUNCER_INI=.*|Environment=PGBOUNCER_INI=/etc/pybouncer/pgbouncer.ini\nEnvironmentFile=-/etc/default/pybouncer|' \
	"$here/../systemd/pybouncer.service" >"$debian/pybouncer.service"
echo 'd /run/pybouncer 0755 postgres postgres -' >"$debian/pybouncer.tmpfiles"
cp "$source/CHANGELOG.md" "$debian/changes"
mkdir "$debian/docs" "$debian/examples"
cp "$source/README.md" "$source"/docs/*.md "$debian/docs/"
cp "$here/../systemd/pgbouncer@.service" "$here/../systemd/pgbouncer.socket" \
	"$debian/examples/"
echo 'debian/docs/*' >"$debian/pybouncer.docs"
echo 'debian/examples/*' >"$debian/pybouncer.examples"

(cd "$tree" && dpkg-buildpackage --build=binary --no-sign --no-pre-clean \
	>"$stage/log" 2>&1) || {
	cat "$stage/log" >&2
	exit 1
}
cp "$stage"/pybouncer_*.deb "$target/"
ls "$target"/pybouncer_"$version"-1_*.deb
