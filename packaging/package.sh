#!/bin/sh
# package.sh VERSION: builds dist/ from this folder and from bin/ARCH/, which `make package`
# has filled. The same commit gives the same bytes.
set -eu
cd "$(dirname "$0")/.."

VERSION=$1
NFPM="go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0"
SBOM="go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"
export VERSION OUT=dist/parts
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)

export SOURCE_DATE_EPOCH

rm -rf dist
mkdir -p "$OUT/man" "$OUT/completion"
for page in packaging/man/*; do
	gzip -9 -n <"$page" >"$OUT/man/$(basename "$page").gz"
done
for shell in bash zsh fish; do
	for program in meshd meshtui; do
		"bin/$(go env GOHOSTARCH)/$program" completion $shell >"$OUT/completion/$program.$shell"
	done
done
# The licenses of all modules that are linked into the programs, Go's own first.
{
	printf 'meshd and meshtui contain parts of these, under their licenses:\n\n==== Go\n\n'
	cat "$(go env GOROOT)/LICENSE"
	CGO_ENABLED=0 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... | sort -u |
		while read -r path version dir; do
			for file in "$dir"/LICENSE* "$dir"/COPYING* "$dir"/NOTICE*; do
				[ ! -f "$file" ] || { printf '\n==== %s %s, %s\n\n' "$path" "$version" "$(basename "$file")" && cat "$file"; }
			done
		done
} >"$OUT/third-party"
# The installed starter file lists no nodes, so `meshd check` reports that it must be edited.
# Its first line tells editors where the schema is, which the package installs as well.
{
	echo '#:schema /usr/share/meshd/mesh.schema.json'
	sed '/^\[\[node\]\]/,/^# Everything below/ s/^\([^#]\)/# \1/' configs/mesh.toml
} >"$OUT/mesh.toml"
{
	printf 'meshd (%s) unstable; urgency=medium\n\n' "$VERSION"
	printf '  * What is new: /usr/share/doc/meshd/CHANGELOG.md\n'
	printf '\n -- The meshd authors <meshd@example.org>  %s\n' "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9 -n >"$OUT/changelog.gz"

for target in "amd64 amd64 amd64 x86_64" "arm64 arm64 arm64 aarch64" "arm arm7 armhf armv7hl"; do
	set -- $target
	export BIN="bin/$1" ARCH="$2"
	RELEASE='' $NFPM package -f packaging/nfpm.yaml -p deb -t "dist/meshd_${VERSION}_$3.deb"
	RELEASE=1 $NFPM package -f packaging/nfpm.yaml -p rpm -t "dist/meshd-${VERSION}-1.$4.rpm"
done
# The modules in each program, including the parts of Go itself. The generator reads the repository by
# itself and fails in a linked worktree, whose .git is a file. So it gets these sources in a repository of
# their own.
git clone -q --depth 1 --no-checkout "file://$PWD" "$OUT/sources"
tar -cf - --exclude=./.git --exclude=./dist --exclude=./bin --exclude=./coverage . | tar -xf - -C "$OUT/sources"
for program in meshd meshtui; do
	GOOS=linux GOARCH=amd64 CGO_ENABLED=0 $SBOM app -json -licenses -std -noserial -main "cmd/$program" \
		-output "$OUT/sbom.json" "$OUT/sources"
	jq --arg at "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" --arg version "$VERSION" \
		'.metadata.timestamp = $at | .metadata.component.version = $version' "$OUT/sbom.json" >"dist/$program-$VERSION.cdx.json"
done
packaging/notes.sh "$VERSION" >"dist/meshd-$VERSION.md"
rm -rf "$OUT"
(cd dist && sha256sum -- * >SHA256SUMS)
ls -l dist
