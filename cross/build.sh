#!/usr/bin/env bash
# Builds the program for another board, with cargo-zigbuild: `build.sh aarch64|armv7|x86_64 [PROFILE]`.
#
# Links against glibc 2.27 (JetPack 4; everything since is newer) and prints the path of the binary on its last line.
# cross/setup/packages.sh cross installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=cross/targets.sh
source cross/targets.sh
select_target "${1:-}"
profile=${2:-dist}

cross_environment

env "$bindgen" cargo zigbuild --locked --profile "$profile" --target "$triple.$glibc" -p girasol --bin girasol
printf '%s\n' "$(target_dir)/$triple/$(profile_dir "$profile")/girasol"
