#!/usr/bin/env bash
# Installs the programs that some tests run for real: redis-server, prometheus (with promtool), chromium, and the
# clients and proxies that are put in front of the service: java, curl, nginx.
set -u

declare -A package=([redis-server]=redis-server [prometheus]=prometheus [promtool]=prometheus [chromium]=chromium
  [java]=default-jdk-headless [curl]=curl [nginx]=nginx-light)
PATH=$PATH:/usr/sbin:/sbin  # where Debian keeps nginx
missing() { for program in "${!package[@]}"; do command -v "$program" >/dev/null || echo "${package[$program]}"; done | sort -u; }

wanted=$(missing)
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing for the tests:" $wanted
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } >/tmp/slimctr-apt.log 2>&1 \
    || tail -n 5 /tmp/slimctr-apt.log
fi
wanted=$(missing)
[ -z "$wanted" ] && exit 0
echo "missing for some tests:" $wanted "- install with: sudo apt-get install" $wanted
if [ "${CI:-}" = true ]; then exit 1; fi
echo "the tests that need them will be skipped"
