#!/bin/sh
# notes.sh VERSION: prints the notes of a release, which are the part of CHANGELOG.md about it. A version on
# the way there, such as 0.2.0~git20261127, has that of 0.2.0. It fails if there is none.
set -eu
cd "$(dirname "$0")/.."

VERSION=$1
printf '# meshd %s\n' "$VERSION"
awk -v version="${VERSION%%[~-]*}" '
	/^## / { here = $2 == version; found = found || here; next }
	here
	END { exit !found }
' CHANGELOG.md
cat <<END
## Files

\`sha256sum --check --ignore-missing SHA256SUMS\` checks what was downloaded. \`*.cdx.json\` list the modules in each
program (CycloneDX). The same commit and the same Go give the same bytes: \`make package VERSION=$VERSION\`.
END
