#!/usr/bin/env bash
# `make test` as a newcomer meets it: a Debian with its own Python, a compiler, make and git, and nothing else.
#
#   sudo tools/fresh_machine.sh [FOLDER]
#
# makes a root of Debian 13 (Python 3.13) in FOLDER (default: /var/tmp/tanl-fresh) with debootstrap, or takes the one that
# is there, copies the files that git knows into it, and runs the command in it. SUITE=bookworm takes Debian 12 (Python
# 3.11), MIRROR another mirror, COMMAND another command; pip's index and certificates and the
# proxies of this machine hold inside too. It needs root, debootstrap, a network and about 10 GB. Remove FOLDER when done.
set -euo pipefail
checkout=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
root=${1:-/var/tmp/tanl-fresh}
suite=${SUITE:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}
command=${COMMAND:-make test}

[ "$(id -u)" = 0 ] || { echo "fresh_machine.sh: changing the root folder needs root" >&2; exit 2; }
command -v debootstrap > /dev/null || { echo "fresh_machine.sh: install debootstrap" >&2; exit 2; }

if [ ! -x "$root/usr/bin/make" ]; then
    packages=python3,python3-venv,g++,make,git,ca-certificates
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror"
fi

rm -rf "$root/checkout"
mkdir -p "$root/checkout"
git -C "$checkout" ls-files -z | (cd "$checkout" && tar --null --files-from=- --create) | tar -x -C "$root/checkout"
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

# /proc and /dev are the machine's, for as long as the command runs.
leave() { umount --recursive "$root/proc" "$root/dev"; }
trap leave EXIT
for folder in proc dev; do
    mount --rbind --make-rslave "/$folder" "$root/$folder"
done

passed=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin)
while IFS= read -r variable; do passed+=("$variable"); done < <(env | grep -E '^(PIP_(CERT|INDEX_URL|DEFAULT_TIMEOUT)=|https?_proxy=|no_proxy=|SSL_CERT_FILE=)' || true)
chroot "$root" env -i "${passed[@]}" sh -c "python3 --version && cd /checkout && $command"
