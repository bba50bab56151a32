#!/bin/sh
# release.sh VERSION: says why this checkout cannot be the release of a version, and does nothing otherwise.
set -eu

VERSION=$1
fail() {
	echo "release: $*" >&2
	exit 1
}

printf '%s\n' "$VERSION" | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+' ||
	fail "this commit has no tag: close the version in CHANGELOG.md, commit it, and run git tag v1.2.3"
[ "$(git rev-parse -q --verify "v$VERSION^{commit}")" = "$(git rev-parse HEAD)" ] ||
	fail "this commit does not have the tag v$VERSION: check it out"
[ -z "$(git status --porcelain)" ] ||
	fail "the checkout differs from the commit: commit the changes, or remove them"
grep -Eqx "## $VERSION \([0-9]{4}-[0-9]{2}-[0-9]{2}\)" CHANGELOG.md ||
	fail "CHANGELOG.md does not close $VERSION: write \"## $VERSION ($(date -u +%Y-%m-%d))\", and tag that commit"
