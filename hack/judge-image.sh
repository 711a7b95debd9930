#!/usr/bin/env bash
# Unpacks CPython and its standard library from Debian's packages into a folder,
# from which the image of the judge is made: hack/judge-image.sh FOLDER
# Nothing is installed. apt verifies what it downloads; versions and digests are
# printed, and lie in the image as usr/share/doc/judge/packages. Does nothing
# when the folder holds the versions that apt knows.
set -euo pipefail

folder=$(realpath -m "${1:?usage: hack/judge-image.sh FOLDER}")
root=$folder/root
command -v apt-get >/dev/null || { echo "judge-image: this needs apt-get (Debian or Ubuntu)" >&2; exit 1; }

# python3-minimal says which version the release has; the libraries are those of
# the modules that compute (the others lack theirs, and say so on import).
version() { apt-cache depends python3-minimal 2>/dev/null | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal$/\1/p' | head -n 1; }
if [ -z "$(version)" ]; then
  [ "$(id -u)" -eq 0 ] || { echo "judge-image: apt knows no python3-minimal: run apt-get update as root" >&2; exit 1; }
  echo "==> Debian packages: asking for the present versions (seconds)"
  apt-get update -qq
fi
python=$(version)
ssl=$(apt-cache depends "lib$python-minimal" | sed -n 's/.*Depends: \(libssl3[a-z0-9]*\)$/\1/p' | head -n 1)
packages=("$python-minimal" "lib$python-minimal" "lib$python-stdlib" libc6 libexpat1 zlib1g libffi8 libbz2-1.0 liblzma5 libcrypt1 "$ssl")
# The first version that apt shows of a package is the one that it would install.
wanted=$(apt-cache show "${packages[@]}" | awk '/^Package:/{p=$2} /^Version:/{v=$2} /^SHA256:/&&!seen[p]++{print p, v, "sha256:" $2}')
list=usr/share/doc/judge/packages
if [ "$(cat "$root/$list" 2>/dev/null)" = "$wanted" ]; then
  echo "==> the judge's $python: unpacked already"
  exit 0
fi

echo "==> the judge's $python: unpacking ${#packages[@]} Debian packages (under a minute)"
rm -rf "$folder"
mkdir -p "$folder/packages" "$root/$(dirname $list)"
(cd "$folder/packages" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}")
while read -r name _ digest; do
  file=$(ls "$folder/packages/${name}"_*.deb)
  echo "${digest#sha256:}  $file" | sha256sum --check --quiet --strict
  dpkg-deb -x "$file" "$root"
done <<<"$wanted"
# What no program needs: manuals, and libc's converters of old character sets.
rm -rf "$root"/etc "$root"/var "$root"/usr/share/{man,lintian,locale,binfmts,apps,applications,pixmaps} \
  "$root"/usr/lib/*/gconv "$root"/usr/lib/valgrind
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l -delete
find "$root" -type d -empty -delete
ln -sfn "$python" "$root/usr/bin/python3"
for d in lib lib64; do # From Debian 13 on, libc lies in usr only.
  if [ ! -e "$root/$d" ] && [ -d "$root/usr/$d" ]; then ln -s "usr/$d" "$root/$d"; fi
done
# Compiled by content: an image keeps no times.
loader=$(find "$root" -type f -name 'ld-linux*.so.*' | head -n 1)
PYTHONHOME=$root/usr "$loader" --library-path "$(echo "$root"/usr/lib/*-linux-gnu):$(dirname "$loader")" "$root/usr/bin/$python" \
  -S -s -B -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$root" -p / "$root/usr/lib/$python" >/dev/null
mkdir -p "$root/$(dirname $list)"
echo "$wanted" | tee "$root/$list" | sed 's/^/    /'
